"""Running a pipeline: in workers, on ranks, on a device."""
