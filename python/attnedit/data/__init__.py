"""Text -> tokens -> packed rows -> batches that a resumed run gets again. Knows no model."""

from attnedit.data.batches import (
    Batches,
    TrainingRows,
    available,
    draw,
    require_rows,
    row_length,
    starts_of,
    tokens_of,
)
from attnedit.data.chat_template import ChatTemplate, read_messages
from attnedit.data.documents import Part, Source, digest, is_heldout, no_text, parts, read_documents, split_heldout
from attnedit.data.files import fingerprint
from attnedit.data.rows import Rows, heldout_rows, joined, pack, shuffled
from attnedit.data.sample import beginning, size_of
from attnedit.data.stream import Shard, StreamedRows
from attnedit.data.tokenizer import Tokenizer

__all__ = [
    "Batches",
    "ChatTemplate",
    "Part",
    "Rows",
    "Shard",
    "Source",
    "StreamedRows",
    "Tokenizer",
    "TrainingRows",
    "available",
    "beginning",
    "digest",
    "draw",
    "fingerprint",
    "heldout_rows",
    "is_heldout",
    "joined",
    "no_text",
    "pack",
    "parts",
    "read_documents",
    "read_messages",
    "require_rows",
    "row_length",
    "shuffled",
    "size_of",
    "split_heldout",
    "starts_of",
    "tokens_of",
]
