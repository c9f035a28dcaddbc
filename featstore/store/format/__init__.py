"""On-disk formats: records as typed models, and matrices as Zarr arrays."""
