"""Where a control plane keeps what is not in its database, within its state folder."""

JOBS_FOLDER = "jobs"
RAY_FOLDER = "ray"
