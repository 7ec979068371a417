"""Models and data sets as commits: content-addressed artifacts, versions, aliases, lineage.

Refuses to know how a model was trained or is served; a version is bytes, hashes and where they came from.
"""
