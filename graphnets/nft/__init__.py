"""Neural functional Transformers: attention between weights (Zhou et al. 2023, arXiv:2305.13546)."""

from graphnets.nft.attention import FibreAttention, WeightSpaceSelfAttention
from graphnets.nft.block import NFTBlock
from graphnets.nft.cross_attention import QueryPool, WeightSpaceCrossAttention
from graphnets.nft.model import NFT
from graphnets.nft.rows import Project, Rows, Unproject

__all__ = [
    "NFT",
    "FibreAttention",
    "NFTBlock",
    "Project",
    "QueryPool",
    "Rows",
    "Unproject",
    "WeightSpaceCrossAttention",
    "WeightSpaceSelfAttention",
]
