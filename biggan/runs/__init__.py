"""The files a run leaves on disk: folder, checkpoints, lineage, metrics, rollback record."""
