"""Sphinx's settings. Nothing here reaches the network."""

from importlib.metadata import version as installed_version

project = "featstore"
author = "the featstore authors"
release = version = installed_version("rs-featstore")

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx_click",
]
exclude_patterns = ["_build"]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

# Two hyphens are an option, not a dash.
smartquotes = False

autodoc_member_order = "bysource"
python_maximum_signature_line_length = 80
# Members are listed by autodoc; numpydoc would list them a second time.
numpydoc_show_class_members = False

html_theme = "furo"
html_title = "featstore"
html_static_path = ["_static"]
html_css_files = ["featstore.css"]
html_show_copyright = False
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}
