"""Stores on object storage: client, lease, working folder, upload."""
