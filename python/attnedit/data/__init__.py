"""Text -> tokens -> packed rows -> batches that a resumed run gets again. Knows no model."""

from attnedit.data.batches import Batches, pad_batches, require_rows
from attnedit.data.chat_template import ChatTemplate, read_messages
from attnedit.data.documents import read_documents, split_heldout
from attnedit.data.rows import Rows, heldout_rows, pack
from attnedit.data.tokenizer import Tokenizer

__all__ = [
    "Batches",
    "ChatTemplate",
    "Rows",
    "Tokenizer",
    "heldout_rows",
    "pack",
    "pad_batches",
    "read_documents",
    "read_messages",
    "require_rows",
    "split_heldout",
]
