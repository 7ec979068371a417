"""Models and data sets as commits: content-addressed artifacts, versions, aliases, lineage.

Refuses to know how a model was trained or is served; a version is bytes, hashes and where they came from.
"""

from orchestrator.registry.errors import CorruptRegistryError, RegistryError, UnknownModelError
from orchestrator.registry.manifest import FileEntry, Lineage, Provenance, Relation, Version, to_document
from orchestrator.registry.store import Damage, Registry

__all__ = [
    "CorruptRegistryError",
    "Damage",
    "FileEntry",
    "Lineage",
    "Provenance",
    "Registry",
    "RegistryError",
    "Relation",
    "UnknownModelError",
    "Version",
    "to_document",
]
