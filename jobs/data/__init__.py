"""Corpora packed into shards: identity by manifest hash, verified on the way in, memory-mapped on the way out.

Refuses to know the order in which samples are used: that is the sample stream's.
"""

from jobs.data.cache import ShardCache
from jobs.data.dataset import PackedDataset, PackedSplit, open_dataset
from jobs.data.manifest import Manifest, Shard, Split
from jobs.data.pack import Packed, PackRules, pack
from jobs.data.stdlib import ensure_dataset

__all__ = [
    "Manifest",
    "PackRules",
    "Packed",
    "PackedDataset",
    "PackedSplit",
    "Shard",
    "ShardCache",
    "Split",
    "ensure_dataset",
    "open_dataset",
    "pack",
]
