"""A tiny language model in llama.cpp's file format: real loading code and real tokens, half a megabyte, no download.

The weights are random, so the text is noise, but it is made of words: the output layer knows no other tokens. It never
ends by itself; ask for ``max_tokens``. Good for chat, completions and (mean pooling) embeddings of length `WIDTH`.
"""

from pathlib import Path

import gguf
import numpy as np

WIDTH = 64
CONTEXT = 2048
_TEXT = (
    "the a one some every river road letter window garden cloud stone voice answer question market engine morning"
    " little quiet old green long near under over with from into and or but is was goes makes finds asks says keeps"
)
WORDS = tuple(_TEXT.split())

_LAYERS, _HEADS, _HIDDEN = 2, 4, 160
_CHAT_TEMPLATE = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}assistant:"


def write(path: Path) -> Path:
    """Write the model; the same bytes each time.

    Returns:
        The path given.
    """
    writer = gguf.GGUFWriter(path, "llama")
    _describe(writer)
    _add_tokens(writer)
    _add_weights(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _describe(writer: gguf.GGUFWriter) -> None:
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(_LAYERS)
    writer.add_feed_forward_length(_HIDDEN)
    writer.add_head_count(_HEADS)
    writer.add_head_count_kv(_HEADS)
    writer.add_rope_dimension_count(WIDTH // _HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_chat_template(_CHAT_TEMPLATE)


def _tokens() -> list[tuple[str, gguf.TokenType]]:
    special = [("<unk>", gguf.TokenType.UNKNOWN), ("<s>", gguf.TokenType.CONTROL), ("</s>", gguf.TokenType.CONTROL)]
    byte_tokens = [(f"<0x{byte:02X}>", gguf.TokenType.BYTE) for byte in range(256)]
    # SentencePiece marks a space before a word with this character.
    return [*special, *byte_tokens, *((f"\u2581{word}", gguf.TokenType.NORMAL) for word in WORDS)]


def _add_tokens(writer: gguf.GGUFWriter) -> None:
    texts, kinds = zip(*_tokens(), strict=True)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(texts)
    writer.add_token_scores([0.0] * len(texts))
    writer.add_token_types(kinds)
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)


def _add_weights(writer: gguf.GGUFWriter) -> None:
    random = np.random.default_rng(7)

    def add(name: str, *shape: int, spread: float = 0.15) -> None:
        writer.add_tensor(f"{name}.weight", (random.standard_normal(shape) * spread).astype(np.float32))

    count = len(_tokens())
    add("token_embd", count, WIDTH, spread=1.0)
    output = random.standard_normal((count, WIDTH)).astype(np.float32)
    output[: count - len(WORDS)] = 0.0
    writer.add_tensor("output.weight", output)
    writer.add_tensor("output_norm.weight", np.ones(WIDTH, np.float32))
    for layer in range(_LAYERS):
        for norm in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{norm}.weight", np.ones(WIDTH, np.float32))
        for square in ("attn_q", "attn_k", "attn_v", "attn_output"):
            add(f"blk.{layer}.{square}", WIDTH, WIDTH)
        add(f"blk.{layer}.ffn_gate", _HIDDEN, WIDTH)
        add(f"blk.{layer}.ffn_up", _HIDDEN, WIDTH)
        add(f"blk.{layer}.ffn_down", WIDTH, _HIDDEN)
