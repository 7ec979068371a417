"""`tide study`: run a search, watch it, go on with it, and turn its best trial into a job."""
