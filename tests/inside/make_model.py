"""Makes a tiny Llama with random weights, its tokenizer and chat template: a real server serves it, and nothing is downloaded.

    make_model.py DIR

Its answers are nonsense, and the same for the same seed."""

import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

BEGIN, END = "<s>", "</s>"
# As the byte-level pre-tokenizer writes them.
SPACE, NEWLINE = "\u0120", "\u010a"
TEMPLATE = (
    "{% for m in messages %}<s>{{ m['role'] }}: {{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant: {% endif %}"
)


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a printable character of ASCII: nothing to train, and each token that it generates shows as text at once, since
    none is half a character."""
    printable = [chr(code) for code in range(33, 127)]
    vocabulary = {token: n for n, token in enumerate([BEGIN, END, SPACE, NEWLINE, *printable])}
    plain = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=plain, bos_token=BEGIN, eos_token=END)
    made.chat_template = TEMPLATE
    return made


to = Path(sys.argv[1])
tokens = tokenizer()
torch.manual_seed(0)
# vLLM's attention on CPU takes heads of 32 and more.
config = LlamaConfig(
    vocab_size=len(tokens),
    hidden_size=128,
    intermediate_size=256,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=4,
    max_position_embeddings=2048,
    bos_token_id=tokens.bos_token_id,
    eos_token_id=tokens.eos_token_id,
)
LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(to)
tokens.save_pretrained(to)
