"""Files of a run on disk: run folder, checkpoints, lineage, metrics, rollback record."""
