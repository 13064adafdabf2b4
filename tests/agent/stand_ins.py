"""Models of random weights behind real chat templates, whose words come from a script: what they write is given, how it
is tokenised, read and answered is not."""

from __future__ import annotations

from collections.abc import Sequence

from attnviz.hooks import continue_tokens
from attnviz.registry import load_registry
from attnviz.session import LoadedModel, Session

HERMES = """
{%- macro call(one) %}
<tool_call>
{"name": "{{ one.function.name }}", "arguments": {{ one.function.arguments | tojson }}}
</tool_call>
{%- endmacro %}
{%- if tools %}
    {{- '<|im_start|>system\n' }}
    {%- if messages[0].role == 'system' %}{{- messages[0].content + '\n\n' }}{%- endif %}
    {{- 'You may call these functions:\n<tools>' }}
    {%- for tool in tools %}{{- '\n' }}{{- tool | tojson }}{%- endfor %}
    {{- '\n</tools>\nCall one so: <tool_call>\n{"name": ..., "arguments": ...}\n</tool_call><|im_end|>\n' }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'user' or message.role == 'assistant' and not message.tool_calls %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}
    {%- elif message.role == 'assistant' %}
        {{- '<|im_start|>assistant' }}
        {%- if message.content %}{{- '\n' + message.content }}{%- endif %}
        {%- for one in message.tool_calls %}{{- '\n' + call(one).strip() }}{%- endfor %}
        {{- '<|im_end|>\n' }}
    {%- elif message.role == 'tool' %}
        {%- if messages[loop.index0 - 1].role != 'tool' %}{{- '<|im_start|>user' }}{%- endif %}
        {{- '\n<tool_response>\n' + message.content + '\n</tool_response>' }}
        {%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{- '<|im_end|>\n' }}{%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}
"""

LLAMA = """
{{- '<|begin_of_text|>' }}
{%- macro head(role) %}{{- '<|start_header_id|>' + role + '<|end_header_id|>\n\n' }}{%- endmacro %}
{%- for message in messages %}
    {%- if message.role == 'user' and loop.first and tools %}
        {{- head('user') + 'Answer with a call of one of these functions, written as ' }}
        {{- '{"name": name, "parameters": object}.\n\n' }}
        {%- for tool in tools %}{{- tool | tojson(indent=4) }}{{- '\n\n' }}{%- endfor %}
        {{- message.content | trim + '<|eot_id|>' }}
    {%- elif message.tool_calls %}
        {%- if message.tool_calls | length != 1 %}{{- raise_exception('One call at a time.') }}{%- endif %}
        {%- set one = message.tool_calls[0].function %}
        {%- set inside = one.arguments | tojson %}
        {{- head('assistant') + '{"name": "' + one.name + '", "parameters": ' + inside + '}<|eot_id|>' }}
    {%- elif message.role == 'tool' %}
        {{- head('ipython') + message.content | tojson + '<|eot_id|>' }}
    {%- else %}
        {{- head(message.role) + message.content | trim + '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- head('assistant') }}{%- endif %}
"""

MISTRAL = """
{{- '<s>' }}
{%- set last = messages | selectattr('role', 'equalto', 'user') | list | length %}
{%- set seen = namespace(users=0) %}
{%- for message in messages %}
    {%- if message.role == 'user' %}
        {%- set seen.users = seen.users + 1 %}
        {%- if tools and seen.users == last %}
            {{- '[AVAILABLE_TOOLS] ' + tools | tojson + '[/AVAILABLE_TOOLS]' }}
        {%- endif %}
        {{- '[INST] ' + message.content + '[/INST]' }}
    {%- elif message.tool_calls %}
        {{- '[TOOL_CALLS] [' }}
        {%- for one in message.tool_calls %}
            {%- if one.id | length != 9 %}{{- raise_exception('Ids of calls have nine characters.') }}{%- endif %}
            {%- set inside = one.function.arguments | tojson %}
            {{- '{"name": "' + one.function.name + '", "arguments": ' + inside + ', "id": "' + one.id + '"}' }}
            {{- ', ' if not loop.last else ']</s>' }}
        {%- endfor %}
    {%- elif message.role == 'tool' %}
        {{- '[TOOL_RESULTS] {"content": ' + message.content + ', "call_id": "' + message.tool_call_id + '"}' }}
        {{- '[/TOOL_RESULTS]' }}
    {%- else %}
        {{- ' ' + message.content + '</s>' }}
    {%- endif %}
{%- endfor %}
"""

NO_TOOLS = """
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}
"""

XML = HERMES.replace(
    '{"name": "{{ one.function.name }}", "arguments": {{ one.function.arguments | tojson }}}',
    "<function={{ one.function.name }}>{{ one.function.arguments.topic }}</function>",
)

BROKEN = "{{ messages[0].content }}{% if tools %}{{ raise_exception('Tools\nare for others.') }}{% endif %}"

CONTROL = {
    "hermes": ("<|im_start|>", "<|im_end|>"),
    "llama": ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    "mistral": (
        "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_CALLS]", "[TOOL_RESULTS]",
        "[/TOOL_RESULTS]",
    ),
}  # fmt: skip
ENDS = {"hermes": "<|im_end|>", "llama": "<|eot_id|>", "mistral": "</s>"}
LETTERS = {"hermes": ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")}
"""Added tokens that are no control tokens, as Qwen has them."""
POSITIONS = 4096


def byte_tokenizer(kind: str, template: str):
    """Every byte is a token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    return _dressed(PreTrainedTokenizerFast(tokenizer_object=core), kind, template)


def space_tokenizer(kind: str, template: str):
    """Every character is a token and a space comes first, as SentencePiece has it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = ["<unk>", "\u2581", "\n", *map(chr, range(33, 127)), "é"]
    core = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, [], unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    core.decoder = decoders.Metaspace(prepend_scheme="always")
    return _dressed(PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>"), kind, template)


def _dressed(tokenizer, kind, template):
    from tokenizers import AddedToken

    tokenizer.add_special_tokens({"additional_special_tokens": list(CONTROL[kind]), "eos_token": ENDS[kind]})
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in LETTERS.get(kind, ())])
    tokenizer.chat_template = template
    return tokenizer


def scripted(kind: str, turns: Sequence[str], *, template: str | None = None, tokenizer=None) -> LoadedModel:
    """A model that writes these turns, one after another, each with its end token unless it is the last and unended.

    A turn that ends with … is one that does not end: its last word comes again and again.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    chosen = template or {"hermes": HERMES, "llama": LLAMA, "mistral": MISTRAL}[kind]
    tokenizer = tokenizer or byte_tokenizer(kind, chosen)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=POSITIONS, eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    model = Session(load_registry(safe=True)).load((LlamaForCausalLM(config).eval(), tokenizer))
    inner, left = model.session.model(model.spec), list(turns)

    def generate(tokens, sampling, on_token=None, cancelled=None, on_row=None):
        text = left.pop(0) if left else turns[-1]
        endless = text.endswith("…")
        ids = tokenizer(text.removesuffix("…"), add_special_tokens=False)["input_ids"]
        ids = ids + (ids[-1:] * sampling.max_new_tokens if endless else [tokenizer.eos_token_id])
        said = []
        for token_id in ids[: sampling.max_new_tokens]:
            if cancelled is not None and cancelled():
                break
            said.append(token_id)
            if on_token is not None:
                on_token(token_id)
        return continue_tokens(tokens, said, inner.labels)

    object.__setattr__(inner, "generate", generate)
    return model
