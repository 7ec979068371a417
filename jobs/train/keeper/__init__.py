"""What keeps training state alive when workers die: one keeper per node, outside the workers, in shared memory.

A rank copies its part of a step into a segment that the keeper owns; the keeper mirrors it to a keeper in another
failure domain and writes it to storage now and then. Parts are opaque bytes with a manifest entry; what lies in them is
the business of `jobs.train.state`. Knows no Ray, no torch and no world size
but the one it is told.
"""
