"""Read published datasets of class folders: EuroSAT, RESISC45, AID, RSSCN7, PatternNet, WHU-RS19.

A row of :data:`DATASETS` is all that a dataset needs. Classes and counts are those of the papers.
Addresses and checksums are those in torchgeo 0.8.1 (EuroSAT's 13 bands, RESISC45, PatternNet) and
torchvision 0.29 (EuroSAT as RGB).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from featstore.datasets.format import Format, Opening
from featstore.datasets.formats import archives, ucmerced
from featstore.datasets.formats.archives import Archive
from featstore.datasets.formats.folder import FolderSource, Sample
from featstore.errors import DatasetError
from featstore.progress import SILENT, Progress
from featstore.text import join_some


@dataclass(frozen=True)
class Named:
    """A published dataset of class folders.

    Attributes
    ----------
    name, description : str
    classes : dict of str to int
        Images of each class, by the name of its folder; 0 where the number is not known.
    n_images : int
        All images.
    folders : tuple of str
        Folders below the root that may hold the class folders.
    ending : str
        Ending of the images, in lower case.
    archive : Archive, optional
        Where to download it.
    page : str
        Where people get it otherwise.
    file_bands : tuple of (str, ...)
        Names of the files' bands: for each band, all its spellings. featstore records the first.
    """

    name: str
    description: str
    classes: Mapping[str, int]
    n_images: int
    folders: tuple[str, ...]
    ending: str
    archive: Archive | None = None
    page: str = ""
    file_bands: tuple[tuple[str, ...], ...] = ()

    def open(self, opening: Opening) -> NamedSource:
        """Open the dataset's folder."""
        return NamedSource(self, opening)

    def download(self, root: Path, progress: Progress = SILENT) -> Path:
        """Fetch the dataset and unpack it as a folder of its name; return the images' place."""
        assert self.archive is not None
        return archives.download(root, self.name, self.archive, progress)


class NamedSource(FolderSource):
    """The images of a published dataset; 70 % of each class are drawn for training."""

    def __init__(self, named: Named, opening: Opening) -> None:
        options = opening.options
        super().__init__(
            opening.find().parent,
            options.seed,
            name=named.name,
            title=named.name,
            expected=tuple(named.classes),
            follow_links=options.follow_links,
        )
        self._named = named
        self.file_bands = named.file_bands

    def _check_classes(self, classes: set[str], samples: Sequence[Sample]) -> list[str]:
        """Refuse other classes, other endings, and other numbers of images than published."""
        notes = super()._check_classes(classes, samples)
        named, root = self._named, self.root
        hint = (
            "Unpack the archive again; or read the folder as it is: featstore extract --dataset "
            f"folder --root {root}"
        )
        names = (sample.name for sample in samples)
        if other := next((n for n in names if PurePath(n).suffix.lower() != named.ending), None):
            raise DatasetError(
                f"{root}: holds {other}; the images of {named.name} end with {named.ending}. {hint}"
            )
        found = Counter((sample.class_name or "").casefold() for sample in samples)
        wrong = [
            f"{found[name.casefold()]:,} of {name} (expected {n:,})"
            for name, n in named.classes.items()
            if n and found[name.casefold()] != n
        ]
        if not wrong and len(samples) != named.n_images:
            wrong = [f"{len(samples):,} images (expected {named.n_images:,})"]
        if wrong:
            raise DatasetError(f"{root}: holds {join_some(wrong)}. {hint}")
        return notes


def _alike(n: int, names: str) -> dict[str, int]:
    return dict.fromkeys(names.split(), n)


EUROSAT = {
    **_alike(3000, "AnnualCrop Forest HerbaceousVegetation Residential SeaLake"),
    **_alike(2500, "Highway Industrial PermanentCrop River"),
    "Pasture": 2000,
}

SENTINEL_2 = (
    *(("B01",), ("blue", "B02"), ("green", "B03"), ("red", "B04"), ("B05",), ("B06",), ("B07",)),
    *(("nir", "B08"), ("B09",), ("B10",), ("B11",), ("B12",), ("B8A",)),
)
"""The bands of EuroSAT's files, in their order."""

HUB = "https://huggingface.co/datasets"

DATASETS = (
    Named(
        "eurosat",
        "27,000 Sentinel-2 images of 64x64 pixels, RGB, 10 land-use classes",
        EUROSAT,
        27_000,
        ("EuroSAT_RGB", "2750", "EuroSAT/2750", "eurosat/2750", "EuroSAT"),
        ".jpg",
        Archive(
            "EuroSAT.zip",
            (
                f"{HUB}/torchgeo/eurosat/resolve/c877bcd43f099cd0196738f714544e355477f3fd/EuroSAT.zip",
            ),
            "md5:c8fa014336c82ac7804f0398fcb19387",
            "2750",
        ),
    ),
    Named(
        "eurosat-ms",
        "27,000 Sentinel-2 images of 64x64 pixels, 13 bands, 10 land-use classes",
        EUROSAT,
        27_000,
        ("EuroSAT_MS", "EuroSATallBands", "ds/images/remote_sensing/otherDatasets/sentinel_2/tif"),
        ".tif",
        Archive(
            "EuroSATallBands.zip",
            (
                f"{HUB}/torchgeo/eurosat/resolve/1ce6f1bfb56db63fd91b6ecc466ea67f2509774c/"
                "EuroSATallBands.zip",
            ),
            "md5:5ac12b3b2557aa56e1826e981e8e200e",
            "ds/images/remote_sensing/otherDatasets/sentinel_2/tif",
        ),
        file_bands=SENTINEL_2,
    ),
    Named(
        "resisc45",
        "31,500 aerial images of 256x256 pixels, 45 scene classes",
        _alike(
            700,
            "airplane airport baseball_diamond basketball_court beach bridge chaparral church "
            "circular_farmland cloud commercial_area dense_residential desert forest freeway "
            "golf_course ground_track_field harbor industrial_area intersection island lake "
            "meadow medium_residential mobile_home_park mountain overpass palace parking_lot "
            "railway railway_station rectangular_farmland river roundabout runway sea_ice ship "
            "snowberg sparse_residential stadium storage_tank tennis_court terrace "
            "thermal_power_station wetland",
        ),
        31_500,
        ("NWPU-RESISC45",),
        ".jpg",
        Archive(
            "NWPU-RESISC45.zip",
            (
                f"{HUB}/isaaccorley/resisc45/resolve/883edc0eee77b2c84225472f10f126e3ed83fa6e/"
                "NWPU-RESISC45.zip",
            ),
            "md5:75206b2e16446591afa88e2628744886",
            "NWPU-RESISC45",
        ),
    ),
    Named(
        "aid",
        "10,000 aerial images of 600x600 pixels, 30 scene classes",
        {
            **{"Airport": 360, "BareLand": 310, "BaseballField": 220, "Beach": 400, "Bridge": 360},
            **{"Center": 260, "Church": 240, "Commercial": 350, "DenseResidential": 410},
            **{"Desert": 300, "Farmland": 370, "Forest": 250, "Industrial": 390, "Meadow": 280},
            **{"MediumResidential": 290, "Mountain": 340, "Park": 350, "Parking": 390},
            **{"Playground": 370, "Pond": 420, "Port": 380, "RailwayStation": 260, "Resort": 290},
            **{"River": 410, "School": 300, "SparseResidential": 300, "Square": 330},
            **{"Stadium": 290, "StorageTanks": 360, "Viaduct": 420},
        },
        10_000,
        ("AID", "AID_dataset/AID"),
        ".jpg",
        page="https://captain-whu.github.io/AID/",
    ),
    Named(
        "rsscn7",
        "2,800 aerial images of 400x400 pixels, 7 scene classes",
        _alike(400, "aGrass bField cIndustry dRiverLake eForest fResident gParking"),
        2800,
        ("RSSCN7", "RSSCN7-master", "RS_images_2800"),
        ".jpg",
        page="https://github.com/palewithout/RSSCN7",
    ),
    Named(
        "patternnet",
        "30,400 aerial images of 256x256 pixels, 38 scene classes",
        _alike(
            800,
            "airplane baseball_field basketball_court beach bridge cemetery chaparral "
            "christmas_tree_farm closed_road coastal_mansion crosswalk dense_residential "
            "ferry_terminal football_field forest freeway golf_course harbor intersection "
            "mobile_home_park nursing_home oil_gas_field oil_well overpass parking_lot "
            "parking_space railway river runway runway_marking shipping_yard solar_panel "
            "sparse_residential storage_tank swimming_pool tennis_court transformer_station "
            "wastewater_treatment_plant",
        ),
        30_400,
        ("PatternNet/images",),
        ".jpg",
        Archive(
            "PatternNet.zip",
            (
                f"{HUB}/torchgeo/PatternNet/resolve/2dbd901b00e301967a5c5146b25454f5d3455ad0/"
                "PatternNet.zip",
            ),
            "md5:96d54b3224c5350a98d55d5a7e6984ad",
            "PatternNet/images",
        ),
    ),
    Named(
        "whu-rs19",
        "1,005 satellite images of 600x600 pixels, 19 scene classes",
        _alike(
            0,
            "Airport Beach Bridge Commercial Desert Farmland Forest Industrial Meadow Mountain "
            "Park Parking Pond Port Residential River Viaduct footballField railwayStation",
        ),
        1005,
        ("WHU-RS19", "WHU-RS19/RSDataset", "RSDataset"),
        ".jpg",
        page="https://captain-whu.github.io/BED4RS/",
    ),
)
"""All of them."""


def formats() -> dict[str, Format]:
    """Return the datasets as formats, by name."""
    return {named.name: _format(named) for named in DATASETS}


def _format(named: Named) -> Format:
    first = named.folders[0]
    places = [f"{named.name}/{first}", *named.folders, named.name, "."]
    if named.archive:
        places.insert(0, f"{named.name}/{named.archive.images}")
    get = (
        f"Run `featstore datasets get {named.name}`"
        if named.archive
        else f"Get it from {named.page}"
    )
    return Format(
        named.name,
        named.description,
        f"{first}/CLASS/*{named.ending}",
        f"{get}, or name the folder that holds {first} with --root.",
        tuple(dict.fromkeys(places)),
        _marks(named),
        named.open,
        named.download if named.archive else None,
    )


def _marks(named: Named) -> tuple[str, ...]:
    """Return the class folders that no other dataset has, also in lower case."""
    lists = [list(ucmerced.CLASSES), *(list(one.classes) for one in DATASETS)]
    others = {c.casefold() for own in lists if own != list(named.classes) for c in own}
    own = [name for name in named.classes if name.casefold() not in others]
    return tuple(dict.fromkeys([*own, *map(str.lower, own)]))
