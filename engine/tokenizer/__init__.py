"""Text to token ids and back, and chat templates. Imports neither torch nor transformers."""

from baton.engine.tokenizer.detokenizer import Detokenizer
from baton.engine.tokenizer.template import ChatTemplate
from baton.engine.tokenizer.tokenizer import Tokenizer, load_tokenizer

__all__ = ["ChatTemplate", "Detokenizer", "Tokenizer", "load_tokenizer"]
