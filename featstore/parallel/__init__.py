"""Tasks on worker processes of this machine or of a Dask cluster."""
