"""Every conformance check fails on a plugin that breaks the promise, with a sentence that says which."""

import contextlib
import dataclasses
import itertools
import json
from types import SimpleNamespace

import numpy as np
import pytest

from attnviz.hooks import (
    Analysis,
    BadInput,
    Format,
    LayerCapture,
    LiveRow,
    Model,
    ModelEntry,
    ModelSpec,
    Param,
    Renderer,
    Sampling,
    SelfCheck,
    Table,
    TokenScores,
    Tool,
    Unavailable,
    UnknownName,
    View,
    Want,
)
from attnviz.testing import (
    HOSTILE,
    FakeModel,
    check_analysis,
    check_backend,
    check_format,
    check_model,
    check_plugin,
    check_registry,
    check_renderer,
    check_round_trip,
    check_tool,
    fake_backend,
    fake_request,
    random_trace,
    sample_finding,
    sample_tokens,
    thumbnail,
    visibility,
)
from attnviz.testing.fake import END, distribution, looks_at, next_id
from attnviz.types import result_types

# --------------------------------------------------------------------------------------------- the fake model


def test_the_fake_model_keeps_the_contract():
    assert isinstance(FakeModel(), Model)
    check_model(FakeModel())
    check_backend(fake_backend(), ModelSpec("fake"))


def test_its_rules_by_hand():
    ids = np.frombuffer(b"abcab", np.uint8).astype(np.int64)
    assert next_id(ids) == ord("c")  # b was followed by c
    assert next_id(ids[:3]) == ord("d")  # c is new: the next byte
    assert [looks_at(ids, head, 4) for head in range(4)] == [3, 0, None, 2]
    assert [looks_at(ids, head, 0) for head in range(4)] == [0, 0, None, 0]


def test_its_answer_follows_the_latest_copies():
    """t was followed by w, w by o; the latest o by n, n by e, e by a space, that by t."""
    model = FakeModel()
    answer = model.generate(model.tokenize("one two one t"), Sampling(max_new_tokens=6))
    assert answer.text == "one two one twone t"


def test_a_conversation_has_roles():
    tokens = FakeModel().tokenize([{"role": "system", "content": "a"}, {"role": "user", "content": "b"}])
    assert tokens.labels == ("<bos>", "<system>", "a", "<user>", "b", "<assistant>")
    assert [(s.role, s.start, s.stop) for s in tokens.segments] == [
        ("system", 1, 3),
        ("user", 3, 5),
        ("assistant", 5, 6),
    ]


@pytest.mark.parametrize(
    "prompt", ["", [], "x" * 600, "\ud800", [{"role": "root", "content": "a"}]], ids=["", "[]", "long", "half", "role"]
)
def test_it_refuses_what_no_model_can_read(prompt):
    with pytest.raises(BadInput):
        FakeModel().tokenize(prompt)


def test_it_lacks_what_is_taken_away():
    model = FakeModel(without=("attention", "hidden_states"))
    check_model(model)
    with pytest.raises(Unavailable, match="no attention"):
        model.trace(model.tokenize("a"), Want())


def test_its_distributions_sum_to_one():
    for site in range(4):
        assert distribution(site, 4, END).sum() == pytest.approx(1)


def test_thumbnails_by_hand():
    weights = np.zeros((1, 4, 4))
    weights[0, 3, 0], weights[0, 1, 1] = 0.25, 1
    assert thumbnail(weights, 2).tolist() == [[[255, 0], [128, 0]]]  # √0.25 · 255 = 127.5, to even


def test_windows_by_hand():
    assert visibility(3, 3, causal=True, window=2).astype(int).tolist() == [[1, 0, 0], [1, 1, 0], [0, 1, 1]]


# --------------------------------------------------------------------------------------------- models


def with_layer(change):
    """A model whose layer 0 is changed after the fact."""

    class Changed(FakeModel):
        def trace(self, tokens, want):
            trace = super().trace(tokens, want)
            first = trace.layers[0]
            return trace if first is None else dataclasses.replace(trace, layers=(change(first), *trace.layers[1:]))

    return Changed()


def given_map(change):
    """Layer 0 hands out a map of its own making instead of the one its statistics are of."""

    def apply(layer):
        weights = np.stack([layer.pattern(head) for head in range(layer.heads)])
        return dataclasses.replace(layer, q=None, k=None, weights=change(weights).astype(np.float32))

    return with_layer(apply)


def leak(weights):
    weights = weights.copy()
    weights[0, 0, :2] = 0.5
    return weights


def lens_with(**changes):
    class Changed(FakeModel):
        def lens(self, *args, **kwargs):
            table = super().lens(*args, **kwargs)
            return dataclasses.replace(table, **{name: change(table) for name, change in changes.items()})

    return Changed()


def card_with(**changes):
    model = FakeModel()
    model.card = dataclasses.replace(model.card, **changes)
    return model


class Counting(FakeModel):
    """Two traces of the same ids differ."""

    count = itertools.count()

    def trace(self, tokens, want):
        trace = super().trace(tokens, want)
        first = trace.layers[0]
        scale = np.float32(1 + 1e-7 * next(self.count))
        return dataclasses.replace(
            trace, layers=(dataclasses.replace(first, distance=first.distance * scale), *trace.layers[1:])
        )


class Deaf(FakeModel):
    def generate(self, tokens, sampling, on_token=None, cancelled=None, on_row=None):
        return super().generate(tokens, sampling, None, cancelled, on_row)


class Unstoppable(FakeModel):
    def generate(self, tokens, sampling, on_token=None, cancelled=None, on_row=None):
        return super().generate(tokens, sampling, on_token, None, on_row)


class Forgetful(FakeModel):
    def generate(self, tokens, sampling, on_token=None, cancelled=None, on_row=None):
        return super().generate(self.tokenize("other"), sampling, on_token, cancelled, on_row)


class Endless(FakeModel):
    def generate(self, tokens, sampling, on_token=None, cancelled=None, on_row=None):
        return super().generate(tokens, dataclasses.replace(sampling, stop=()), on_token, cancelled, on_row)


class Silent(FakeModel):
    def generate(self, tokens, sampling, on_token=None, cancelled=None, on_row=None):
        return super().generate(tokens, sampling, on_token, cancelled)


class Late(FakeModel):
    """Each row is that of the token after."""

    def generate(self, tokens, sampling, on_token=None, cancelled=None, on_row=None):
        def later(row):
            on_row(LiveRow(row.position, row.id, np.roll(row.weights, 1, axis=-1)))

        return super().generate(tokens, sampling, on_token, cancelled, later if on_row else None)


class Generous(FakeModel):
    """Layer 2, which has no attention, gets weights."""

    def generate(self, tokens, sampling, on_token=None, cancelled=None, on_row=None):
        def filled(row):
            on_row(LiveRow(row.position, row.id, np.nan_to_num(row.weights)))

        return super().generate(tokens, sampling, on_token, cancelled, filled if on_row else None)


class Swallowing(FakeModel):
    def generate(self, tokens, sampling, on_token=None, cancelled=None, on_row=None):
        def quiet(token):
            with contextlib.suppress(Exception):
                on_token(token)

        return super().generate(tokens, sampling, quiet if on_token else None, cancelled, on_row)


class Inventing(FakeModel):
    def trace(self, tokens, want):
        return FakeModel().trace(tokens, want)


class HeadsReversed(LayerCapture):
    def pattern(self, head, rows=None):
        return super().pattern(self.heads - 1 - head, rows)


class Lenient(FakeModel):
    def tokenize(self, prompt):
        return super().tokenize(prompt or "nothing")


BROKEN_MODELS = {
    "row sums": given_map(lambda w: w * 0.9),
    "may not see": given_map(leak),
    "negative": given_map(lambda w: -w),
    "entropy against brute force": with_layer(lambda a: dataclasses.replace(a, entropy=a.entropy + np.float32(0.01))),
    "row_max against": with_layer(lambda a: dataclasses.replace(a, row_max=a.row_max * np.float32(0.9))),
    "distance against": with_layer(lambda a: dataclasses.replace(a, distance=a.distance + np.float32(1))),
    "column_sum against": with_layer(lambda a: dataclasses.replace(a, column_sum=a.column_sum[::-1])),
    "allowed does not fit": with_layer(lambda a: dataclasses.replace(a, allowed=a.allowed + 1)),
    "seen_by does not fit": with_layer(lambda a: dataclasses.replace(a, seen_by=a.seen_by[::-1])),
    "thumbnail": with_layer(lambda a: dataclasses.replace(a, thumbnail=a.thumbnail[::-1])),
    "against softmax": with_layer(
        lambda a: HeadsReversed(**{f.name: getattr(a, f.name) for f in dataclasses.fields(a)})
    ),
    "two traces": Counting(),
    "the card says 3 heads": card_with(
        layers=(dataclasses.replace(FakeModel().card.layers[0], heads=3, kv_heads=3), *FakeModel().card.layers[1:])
    ),
    "key heads, the trace": card_with(
        layers=(dataclasses.replace(FakeModel().card.layers[0], kv_heads=2), *FakeModel().card.layers[1:])
    ),
    "expected 2 layers": card_with(layers=FakeModel().card.layers[:2]),
    "beyond the window": card_with(
        layers=(dataclasses.replace(FakeModel().card.layers[0], window=2), *FakeModel().card.layers[1:])
    ),
    "unknown capabilities": card_with(capabilities=FakeModel().card.capabilities | {"telepathy"}),
    "no reason in `missing`": card_with(missing={}),
    "route 'magic'": card_with(route="magic"),
    "leave the vocabulary": card_with(vocabulary=100),
    "must raise Unavailable": Inventing(without=("attention",)),
    "for an empty text": Lenient(),
    "not the model's own output": lens_with(self_check=lambda t: SelfCheck(False, 1.0, 1.0)),
    "expected positions": lens_with(positions=lambda t: t.positions[::-1]),
    "the last site": lens_with(sites=lambda t: t.sites[::-1]),
    "not sorted": lens_with(top_logprobs=lambda t: t.top_logprobs[..., ::-1], top_ids=lambda t: t.top_ids[..., ::-1]),
    "against itself": lens_with(kl_model_lens=lambda t: t.kl_model_lens + np.float32(0.5)),
    "entropy is negative": lens_with(entropy=lambda t: -t.entropy),
    "more than 1": lens_with(top_logprobs=lambda t: t.top_logprobs * np.float32(0.0)),
    "does not fit the tokens listed": lens_with(target_rank=lambda t: np.where(t.target_rank >= 0, 0, -1)),
    "has no target, but a rank": lens_with(target_rank=lambda t: np.abs(t.target_rank)),
    "settles at site": lens_with(settles_at=lambda t: t.settles_at + 1),
    "top 5": lens_with(settles_in_top5=lambda t: t.settles_at + 1),
    "no label for": lens_with(labels=lambda t: {}),
    "on_token heard": Deaf(),
    "after it was cancelled": Unstoppable(),
    "begin with the prompt": Forgetful(),
    "was swallowed": Swallowing(),
    "with the stop text": Endless(),
    "on_row got": Silent(),
    "while generating against the trace": Late(),
    "heads that do not exist": Generous(),
}


@pytest.mark.parametrize("message", BROKEN_MODELS)
def test_broken_models_are_found(message):
    with pytest.raises(AssertionError) as failure:
        check_model(BROKEN_MODELS[message], "one two one x")
    assert message in str(failure.value)


def part(**changes):
    """Enough of a torch module for its traces to be looked for."""
    return SimpleNamespace(**{"training": False, "_forward_hooks": {}, **changes})


@pytest.mark.parametrize(
    ("message", "mischief"),
    [
        ("hooks of layer", lambda module: module.layer._forward_hooks.update(x=1)),
        ("training mode of layer", lambda module: setattr(module.layer, "training", True)),
        ("forward of layer", lambda module: setattr(module.layer, "forward", print)),
        ("requires_grad of weight", lambda module: setattr(module.weight, "requires_grad", True)),
        ("grad of weight", lambda module: setattr(module.weight, "grad", 1)),
        ("attention implementation", lambda module: setattr(module.config, "_attn_implementation", "eager")),
    ],
)
@pytest.mark.parametrize("method", ["trace", "lens", "generate"])
def test_what_is_left_behind_is_found(message, mischief, method):
    module = SimpleNamespace(
        config=SimpleNamespace(_attn_implementation="sdpa"),
        layer=part(),
        weight=SimpleNamespace(requires_grad=False, grad=None),
    )
    module.named_modules = lambda: [("layer", module.layer)]
    module.named_parameters = lambda: [("weight", module.weight)]

    class Untidy(FakeModel):
        def module(self):
            return module

    check_model(Untidy(), "one")
    tidy = getattr(FakeModel, method)

    def untidy(self, *args, **kwargs):
        mischief(module)
        return tidy(self, *args, **kwargs)

    setattr(Untidy, method, untidy)
    with pytest.raises(AssertionError, match=f"Left behind in the model: {message}"):
        check_model(Untidy(), "one")


def test_a_backend_that_cannot_load_is_found():
    with pytest.raises(AssertionError, match="cannot load 'gpt2': it only knows"):
        check_backend(fake_backend(), ModelSpec("gpt2"))
    broken = dataclasses.replace(fake_backend(), load=lambda spec: object())
    with pytest.raises(AssertionError, match="lacks a method"):
        check_backend(broken, ModelSpec("fake"))


# --------------------------------------------------------------------------------------------- analyses and results


def scores(request, **changes):
    values = np.arange(len(request.tokens), dtype=np.float32)
    return TokenScores(**{"scores": values, "unit": "tokens", "info": ("Positions.",), **changes})


def analysis(run=scores, **changes):
    good = {"name": "a", "title": "A", "group": "G", "summary": "", "run": run, "produces": TokenScores}
    return Analysis(**{**good, **changes})


DRAWS = itertools.count()

BROKEN_ANALYSES = {
    "expected a Table": analysis(produces=Table),
    "`info` is empty": analysis(lambda r: scores(r, info=())),
    "every line": analysis(lambda r: scores(r, info=(" ",))),
    "two runs": analysis(lambda r: scores(r, scores=np.array([next(DRAWS)], np.float32))),
    "share from 0 to 1": analysis(lambda r: (r.progress(50, "half"), scores(r))[1]),
    "changed the parameters": analysis(
        lambda r: (r.params.update(x=2), scores(r))[1], params=(Param("x", "int", default=1, help="A number."),)
    ),
    "no help text": analysis(params=(Param("x", "int"),)),
    "does not survive JSON": analysis(lambda r: scores(r, scores=np.array([1e300]))),
    "JSON can carry": analysis(lambda r: scores(r, unit=object())),
}


@pytest.mark.parametrize("message", BROKEN_ANALYSES)
@pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning")
def test_broken_analyses_are_found(message):
    broken = BROKEN_ANALYSES[message]
    with pytest.raises(AssertionError) as failure:
        check_analysis(broken, fake_request(broken))
    assert message in str(failure.value)


def test_a_sound_analysis_passes():
    assert check_analysis(analysis(), fake_request(analysis())).unit == "tokens"


def test_a_request_has_what_was_asked_for():
    request = fake_request(analysis(params=(Param("layer", "layer"), Param("token", "token"))), text="abc")
    assert request.params == {"layer": 0, "token": 3}
    assert request.attention(0, 1).shape == (4, 4)
    without = fake_request(analysis(requires=frozenset({"logits"})))
    with pytest.raises(BadInput, match='add "attention" to the requires'):
        _ = without.trace


@pytest.mark.parametrize("value", [float("nan"), np.array([1, np.nan], np.float32)], ids=["nan", "array"])
def test_round_trips_know_missing_numbers(value):
    if isinstance(value, float):
        table = sample_finding("lens_table").result
        check_round_trip(dataclasses.replace(table, self_check=SelfCheck(False, value, value)))
    else:
        check_round_trip(TokenScores(scores=value, unit=""))


# --------------------------------------------------------------------------------------------- renderers


def renderer(payload, kind="text", **changes):
    def render(finding):
        return View(kind=kind, payload=payload(finding) if callable(payload) else payload)

    return Renderer(**{"name": "r", "title": "R", "accepts": (Table,), "produces": kind, "render": render, **changes})


PAGE = "<!doctype html><p>"
BROKEN_RENDERERS = {
    "made 'text'": dataclasses.replace(renderer("x"), produces="html"),
    "expected a View": dataclasses.replace(renderer("x"), render=lambda finding: "x"),
    "two views": renderer(lambda finding: str(next(DRAWS))),
    "expected a text, got int": renderer(3),
    "(columns, rows)": renderer([1], "table"),
    "a row has 1 cells, expected 2": renderer((("a", "b"), ((1,),)), "table"),
    "must be a PNG": renderer(b"GIF89a", "image"),
    "not a .png": renderer(b"GIF89a", "file", suffixes=(".png",)),
    "not a .html": renderer("<p>", "html", suffixes=(".html",)),
    "not a readable .json": renderer("{", suffixes=(".json",)),
    "not a readable .json file: NaN": renderer("NaN", suffixes=(".json",)),
    "different lengths": renderer("a,b\n1\n", suffixes=(".csv",)),
    "not a readable .svg": renderer("<svg>&nope;</svg>", suffixes=(".svg",)),
    "holds a <script>": renderer("<svg><script>1</script></svg>", suffixes=(".svg",)),
    "event handler": renderer("<svg><a onclick='x'/></svg>", suffixes=(".svg",)),
    "expected an <svg>": renderer("<p/>", suffixes=(".svg",)),
    "raw '<'": renderer(PAGE + '<script type="application/json">{"a": "<"}</script>', "html"),
    "from elsewhere": renderer(PAGE + '<script src="https://example.org/x.js"></script>', "html"),
    "parses text as HTML": renderer({}, "script", script="root.innerHTML = data.label"),
    "runs text as code": renderer({}, "script", script="eval(data.code)"),
    "reaches out": renderer({}, "script", script="fetch('/other')"),
    "every time": renderer({}, "script", script="const x = Math.random()"),
    "style loads": renderer({}, "script", script="return {}", style="@import 'x.css'"),
    "JSON can carry": renderer({"a": object()}, "script", script="return {}"),
    "`detail`": renderer({}, "script", script="return {}", detail=lambda finding: {"n": next(DRAWS)}),
    "does not accept": renderer("x", accepts=(TokenScores,)),
}


@pytest.mark.parametrize("message", BROKEN_RENDERERS)
def test_broken_renderers_are_found(message):
    with pytest.raises(AssertionError) as failure:
        check_renderer(BROKEN_RENDERERS[message], sample_finding("table"))
    assert message in str(failure.value)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_in_a_page_is_found(text):
    careless = renderer(lambda finding: PAGE + "".join(finding.tokens.labels[HOSTILE.index(text)]), "html")
    with pytest.raises(AssertionError, match="stands unescaped"):
        check_renderer(careless, sample_finding("table"))


def test_sound_renderers_pass():
    import html

    def page(finding):
        labels = "".join(html.escape(t).replace("$", "&#36;").replace("{", "&#123;") for t in finding.tokens.labels)
        data = json.dumps(finding.tokens.labels).replace("<", "\\u003c")
        return f'{PAGE}{labels}<script type="application/json">{data}</script>'

    check_renderer(renderer(page, "html", suffixes=(".html",)), sample_finding("table"))
    comment = "// never innerHTML\n/* nor eval( */ root.textContent = data.a; host.fetch({layer: 1});"
    check_renderer(renderer({"a": HOSTILE[0]}, "script", script=comment), sample_finding("table"))
    svg = '<svg xmlns="http://www.w3.org/2000/svg"><text>&lt;script&gt;</text></svg>'
    check_renderer(renderer(svg, suffixes=(".svg",)), sample_finding("table"))
    check_renderer(renderer("# note\na,b\n1,2\n", suffixes=(".csv",)), sample_finding("table"))


@pytest.mark.parametrize("kind", result_types())
def test_there_is_a_sample_of_every_kind_with_hostile_texts(kind):
    finding = sample_finding(kind)
    assert finding.result.kind == kind
    assert set(HOSTILE) < set(finding.tokens.labels)
    assert json.dumps(sample_tokens().text)
    with pytest.raises(UnknownName, match="Known: attention_pattern"):
        sample_finding("nope")


# --------------------------------------------------------------------------------------------- tools and formats


def tool(run, **properties):
    return Tool("t", "", {"type": "object", "properties": properties, "required": list(properties)}, run)


TEXT = {"type": "string"}


def crash(text):
    return str(int(text))


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (tool(lambda text: text, other=TEXT), "its schema names"),
        (tool(lambda text: 3, text=TEXT), "expected text, got int"),
        (tool(crash, text=TEXT), "raised ValueError, expected text or an AttnvizError"),
        (Tool("t", "", {"type": "object", "required": ["text"]}, lambda: ""), "which it lacks"),
    ],
)
def test_broken_tools_are_found(broken, message):
    with pytest.raises(AssertionError, match=message):
        check_tool(broken, text="1")


def write(content, path):
    path.write_text(json.dumps(content))


def read(path):
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(str(error)) from None
    if not isinstance(found, list) or not found:
        raise BadInput("expected a list")
    return found


def untidy(content, path):
    write(content, path)
    write(content, path.with_suffix(".tmp"))


def format(**changes):
    good = {"name": "f", "summary": "", "content": "c", "suffixes": (".json",), "read": read, "write": write}
    return Format(**{**good, **changes})


def test_a_sound_format_passes(tmp_path):
    check_format(format(), [1, 2], tmp_path)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (format(suffixes=()), "expected suffixes"),
        (format(write=untidy), r"the folder holds \['content.json', 'content.tmp'\]"),
        (format(read=lambda path: read(path)[:1]), "back, got"),
        (format(read=lambda path: json.loads(path.read_bytes())), "raised JSONDecodeError"),
        (format(read=lambda path: [1, 2]), "as if it were content"),
    ],
)
def test_broken_formats_are_found(broken, message, tmp_path):
    with pytest.raises(AssertionError, match=message):
        check_format(broken, [1, 2], tmp_path)


# --------------------------------------------------------------------------------------------- whole plugins


def registry(analyses=(), renderers=(), models=(), failures=(), plugins=None):
    entries = {"analyses": analyses, "renderers": renderers, "models": models}
    provides = tuple((kind, d.name) for kind, found in entries.items() for d in found)
    record = SimpleNamespace(name="mine", source="mine.py", provides=provides)
    return SimpleNamespace(
        **{kind: {d.name: d for d in found} for kind, found in entries.items()},
        backends={},
        formats={},
        tools={},
        plugins=[record] if plugins is None else plugins,
        failures=failures,
    )


FAILURE = SimpleNamespace(plugin="bad", source="bad.py", stage="hook", reason="it broke")
DEFAULTS = [ModelEntry(name, "T", "s", "1 MB", "MIT", default=True) for name in ("a", "b")]


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (registry(failures=[FAILURE]), r"bad \(bad.py\), hook: it broke"),
        (registry(analyses=[analysis()]), "no renderer draws a TokenScores"),
        (registry(models=DEFAULTS), "expected one default, got a, b"),
        (registry(models=[dataclasses.replace(DEFAULTS[0], backend="abacus")]), "'abacus' is not registered"),
        (
            registry(analyses=[analysis()], renderers=[renderer("x", accepts=(TokenScores,))], plugins=[]),
            "Registered by no plugin",
        ),
    ],
)
def test_broken_registries_are_found(broken, message):
    with pytest.raises(AssertionError, match=message):
        check_registry(broken)


def test_a_sound_registry_passes():
    check_registry(registry([analysis()], [renderer("x", accepts=(TokenScores,))], DEFAULTS[:1]))


def test_problems_of_a_plugin_are_collected():
    def crash(request):
        raise KeyError("x")

    bad = registry([analysis(lambda r: scores(r, info=())), analysis(crash, name="b")], [renderer(3)])
    problems = check_plugin("mine", bad)
    assert [len(problems), *("`info` is empty" in p for p in problems)] == [3, True, False, False]
    assert problems[1] == "analyses b: KeyError: 'x'"
    assert check_plugin("mine.py", bad) == check_plugin("b", bad) == problems
    assert check_plugin("mine", registry([analysis()])) == []
    assert check_plugin("bad", registry(failures=[FAILURE])) == ["bad (bad.py), hook: it broke"]
    with pytest.raises(UnknownName, match="Unknown plugin 'nope'"):
        check_plugin("nope", registry())


def test_random_traces_are_what_was_asked_for():
    trace = random_trace(6, heads=(4, 2), kv_heads=(2, 1), windows=(None, 3), missing=())
    assert [layer.heads for layer in trace.layers] == [4, 2]
    assert [layer.k.shape[0] for layer in trace.layers] == [2, 1]
    assert not np.triu(trace.attention(0, 0), 1).any()
    assert trace.attention(1, 0)[5].nonzero()[0].tolist() == [3, 4, 5]
