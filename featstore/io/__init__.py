"""Files of the local disk: atomic writes, hashes, locks, downloads."""
