"""What runs for a job: training workers, models, data, studies and transforms.

Never imports `serving`; knows the control plane only through specs and the batch plan.
"""
