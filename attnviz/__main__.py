"""The command line: `attnviz COMMAND …`.

Results go to standard output as JSON and nothing else does; messages go to standard error. Exit codes: 0 done,
2 bad arguments or bad input (one line: what was expected, what came, what to do), 1 a bug (with its traceback).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from attnviz import runs_command
from attnviz.agent import command as agent_command
from attnviz.array_option import add_choices, of_array, refuse_without_array
from attnviz.bench.command import add_options as add_bench_options
from attnviz.bench.command import run as _bench
from attnviz.console import print_json as _print_json
from attnviz.console import say as _say
from attnviz.console import say_no_more as _say_no_more
from attnviz.demo import command as demo_command
from attnviz.errors import AttnvizError, BadInput, UnknownName
from attnviz.progress import Line
from attnviz.settings import Settings, read_settings, start_logging, take_file

if TYPE_CHECKING:
    from attnviz.registry import Registry
    from attnviz.session import LoadedModel, Session, TracedRun

TEXT_BYTES = 4 << 20
_MODEL_HELP = "menu name, folder or hub id ({})"
_PARAM_KEYS = ("name", "type", "default", "minimum", "maximum", "choices", "help")


class _Parser(argparse.ArgumentParser):
    """Refuses in one line."""

    def error(self, message: str) -> NoReturn:
        raise BadInput(f"{message}. See `{self.prog} --help`.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    try:
        for line in take_file(Path.cwd()):
            print(f"attnviz: {line}", file=sys.stderr)
        settings = read_settings()
        start_logging(settings)
        options = _parser(settings).parse_args(arguments)
        options.settings = settings
        return int(options.act(options) or 0)
    except AttnvizError as error:
        print(f"attnviz: {_one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stopped:
        print(f"attnviz: {str(stopped) or 'stopped.'}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        _say_no_more()
        return 0


def _one_line(error: AttnvizError) -> str:
    return " ".join(str(error).split())


def _parser(settings: Settings) -> _Parser:
    model = settings.model or "demo"
    parser = _Parser(prog="attnviz", description="See how a transformer came to its answer.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)

    def command(name: str, act: Any, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.set_defaults(act=act)
        added.add_argument("--no-plugins", action="store_true", help="safe mode: built-in plugins only")
        return added

    serve = command("serve", _serve, "Open the app in a browser (the same as `python app.py`).")
    serve.add_argument("--host", help="address to listen on (127.0.0.1)")
    serve.add_argument("--port", type=int, help="port to listen on (7860)")

    plugins = command("plugins", _plugins, "List plugins, what they offer, and what could not be loaded and why.")
    plugins.add_argument("--json", action="store_true", help="print JSON")
    plugins.add_argument("--kind", help="only this kind: backends, analyses, renderers, formats, tools, models")

    models = command("models", _models, "List the model menu.")
    models.add_argument("--json", action="store_true", help="print JSON")

    card = command("card", _card, "Say what is known of a model before any run, and what runs of some lengths take.")
    card.add_argument("model", metavar="MODEL", nargs="?", default=model, help=_MODEL_HELP.format(model))
    _loading_options(card)
    card.add_argument("--tokens", type=int, nargs="+", metavar="N", help="lengths of the runs to estimate")
    card.add_argument("--json", action="store_true", help="print JSON")

    check = command("check", _check, "Check a plugin against the plugin contract.")
    check.add_argument(
        "plugin", metavar="PATH_OR_NAME", help="a drop-in file or folder, or the name of a loaded plugin"
    )

    run = command("run", _run, "Run one analysis and print its result as JSON.")
    run.add_argument("analysis", metavar="ANALYSIS", help="a name from `attnviz plugins --kind analyses`")
    _prompt_options(run, model)
    add_choices(run)
    run.add_argument("-p", "--param", action="append", default=[], metavar="NAME=VALUE", help="parameter; repeatable")
    run.add_argument("--out", metavar="FILE", help="write .json, .csv, .html, .png or .svg instead of printing")
    runs_command.add_save_options(run)

    convert = command(
        "convert", _convert, "Read an attribution file (Inseq, TokenLense …) and write it as another file."
    )
    convert.add_argument("source", metavar="IN", help="the file to read; its content says which format it is")
    convert.add_argument("target", metavar="OUT", help="its ending picks how it is written: .html .csv .inseq.json …")
    convert.add_argument("--format", default="auto", help="format of IN: a name from `attnviz plugins --kind formats`")
    convert.add_argument(
        "-p", "--param", action="append", default=[], metavar="NAME=VALUE", help="parameter; repeatable"
    )

    generate = command("generate", _generate, "Let the model answer and print tokens and answer as JSON.")
    _prompt_options(generate, model)
    runs_command.add_save_options(generate)
    _sampling_options(generate, settings)
    generate.set_defaults(max_new_tokens=None)  # an agent's turns are longer than an answer
    agent_command.add_options(generate)
    generate.add_argument(
        "--stop", action="append", default=[], metavar="TEXT", help="end when the answer contains this; repeatable"
    )

    demo = command("demo", _demo, "Five questions of each category, with tools and without; or the held-out table.")
    demo_command.add_options(demo)
    demo.add_argument("--model", default=model, help=_MODEL_HELP.format(model))
    _loading_options(demo)

    bench = command("bench", _bench, "Compare methods of attribution over models and prompts; goes on after a stop.")
    add_bench_options(bench)
    _loading_options(bench)
    runs_command.add_commands(command("runs", None, "Saved runs: list, show, rename, delete, export, import."))
    return parser


def _sampling_options(parser: argparse.ArgumentParser, settings: Settings) -> None:
    """Options of how an answer is made; what is not given is as in the settings."""

    def number(name: str, kind: type, mark: str, text: str) -> None:
        default = getattr(settings, name.replace("-", "_"))
        shown = "any" if default is None else f"{default:g}"
        parser.add_argument(f"--{name}", type=kind, default=default, metavar=mark, help=f"{text} ({shown})")

    number("max-new-tokens", int, "N", "longest answer")
    number("temperature", float, "X", "of sampling; 0 = greedy")
    number("top-p", float, "X", "nucleus sampling; 1 = none")
    number("repetition-penalty", float, "X", "1 = none")
    number("seed", int, "S", "makes a sampled answer repeatable")


def _prompt_options(parser: argparse.ArgumentParser, model: str) -> None:
    """Options of a model and of what it is to read."""
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--text", help="the prompt")
    given.add_argument("--file", metavar="FILE", help="read the prompt from a text file (- = standard input)")
    given.add_argument("--messages", metavar="FILE", help='a conversation as JSON: [{"role": "user", "content": "…"}]')
    given.add_argument(
        "--array", metavar="FILE", help="numbers for a model that reads them: .npy, or .csv of [time, channel]"
    )
    parser.add_argument("--model", default=model, help=_MODEL_HELP.format(model))
    _loading_options(parser)


def _loading_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--backend", default="auto", help="how to load it (auto)")
    parser.add_argument("--revision", help="branch, tag or commit of a hub model")
    parser.add_argument("--dtype", default="auto", help="auto, float32, float16, bfloat16")
    parser.add_argument(
        "--device",
        default="auto",
        help="auto, cpu, cuda, mps; spread: over all GPUs, memory and disk; ndif: a hub model on NDIF",
    )


# --------------------------------------------------------------------------------------------- commands


def _serve(options: argparse.Namespace) -> None:
    from attnviz.ui import serve

    serve(_session(options), host=options.host, port=options.port)


def _plugins(options: argparse.Namespace) -> None:
    from attnviz.registry import KINDS

    registry = _registry(options)
    if options.kind is not None and options.kind not in KINDS:
        raise UnknownName("kind", options.kind, KINDS)
    described = _described(registry, options.kind)
    if options.json:
        _print_json(described)
        return
    for entry in described["plugins"]:
        version = f" {entry['version']}" if entry["version"] else ""
        _say(f"{entry['name']}{version}  ({entry['origin']}: {entry['source']})")
        for item in entry["provides"]:
            _say(f"    {item['kind']:<10} {item['name']:<20} {item['summary']}")
    for title in ("failures", "unavailable"):
        for entry in described[title]:
            _say(f"{title}: {entry['plugin']} ({entry['source']}), {entry['stage']}: {entry['reason']}")


def _described(registry: Registry, kind: str | None) -> dict[str, Any]:
    """What `attnviz plugins --json` prints."""
    plugins = []
    for record in registry.plugins:
        offered = [_item(registry, k, n) for k, n in record.provides if kind in (None, k)]
        if offered or kind is None:
            about = {"name": record.name, "source": record.source, "origin": record.origin, "version": record.version}
            plugins.append({**about, "provides": offered})

    def trouble(found: Any) -> list[dict[str, str]]:
        return [{"plugin": f.plugin, "source": f.source, "stage": f.stage, "reason": f.reason} for f in found]

    return {
        "plugins": plugins,
        "failures": trouble(registry.failures),
        "unavailable": trouble(registry.unavailable),
    }


def _item(registry: Registry, kind: str, name: str) -> dict[str, Any]:
    descriptor = getattr(registry, kind)[name]
    summary = getattr(descriptor, "summary", "") or getattr(descriptor, "title", "")
    item: dict[str, Any] = {"kind": kind, "name": name, "summary": summary}
    if kind == "analyses":
        item["group"] = descriptor.group
        item["produces"] = descriptor.produces.kind
        item["requires"] = sorted(descriptor.requires)
        item["params"] = [{key: getattr(param, key) for key in _PARAM_KEYS} for param in descriptor.params]
    if kind == "formats":
        item["content"] = descriptor.content
        item["suffixes"] = list(descriptor.suffixes)
        item["params"] = [{key: getattr(param, key) for key in _PARAM_KEYS} for param in descriptor.params]
    if kind == "renderers":
        item["accepts"] = [accepted.kind for accepted in descriptor.accepts]
        item["suffixes"] = list(descriptor.suffixes)
    return item


def _models(options: argparse.Namespace) -> None:
    menu = [
        {key: getattr(entry, key) for key in ("name", "title", "source", "size", "licence", "note", "default")}
        for entry in _registry(options).models.values()
    ]
    if options.json:
        _print_json({"models": menu})
        return
    for entry in menu:
        mark = " (default)" if entry["default"] else ""
        _say(f"{entry['name']:<24} {entry['title']}{mark}; {entry['size']}; {entry['licence']}. {entry['note']}")


def _card(options: argparse.Namespace) -> None:
    from attnviz.model_card import COUNTS, checked_counts, describe

    tokens = checked_counts(COUNTS if options.tokens is None else options.tokens)  # refused before a model is loaded
    about = describe(_model(_session(options), options), tokens)
    if options.json:
        _print_json(about.to_jsonable())
    else:
        _say(str(about))


def _check(options: argparse.Namespace) -> int:
    from attnviz.registry import load_one
    from attnviz.testing import check_plugin

    path = Path(options.plugin)
    registry = load_one(path) if path.exists() else _registry(options)
    for missing in registry.unavailable:
        if options.plugin in (missing.plugin, missing.source):
            raise BadInput(f"{missing.plugin}: {missing.reason}")
    problems = check_plugin(path if path.exists() else options.plugin, registry)
    for problem in problems:
        print(problem, file=sys.stderr)
    _say(f"{options.plugin}: " + (f"{len(problems)} problems" if problems else "keeps the plugin contract"))
    return 2 if problems else 0


def _run(options: argparse.Namespace) -> None:
    session = _session(options)
    analysis = session.analysis(options.analysis)  # an unknown name is refused before a model is loaded
    params = _params(options.param)
    analysis.resolve(params)
    refuse_without_array(options)
    model = _model(session, options)
    given = _prompt(session, options) if options.array is None else of_array(model, options)
    run = model.trace(**given, category=options.category)
    runs_command.save(run, options)
    with Line(sys.stderr) as line:
        finding = run.analyze(options.analysis, on_progress=line, **params)
    if options.out is None:
        _say(finding.to_json())
        return
    print(f"attnviz: wrote {finding.save(options.out)}", file=sys.stderr)


def _convert(options: argparse.Namespace) -> None:
    session = _session(options)
    finding = session.read_attribution(options.source, format=options.format, **_params(options.param))
    print(f"attnviz: wrote {finding.save(options.target)}", file=sys.stderr)


def _generate(options: argparse.Namespace) -> int:
    session = _session(options)
    if options.agent:
        return _answer_with_tools(session, options)
    agent_command.refuse_without_agent(options)
    names = ("category", "temperature", "top_p", "repetition_penalty", "seed", "stop")
    asked = {name: getattr(options, name) for name in names}
    longest = options.settings.max_new_tokens if options.max_new_tokens is None else options.max_new_tokens
    run = _model(session, options).generate(**_prompt(session, options), **asked, max_new_tokens=longest)
    _print_json(_answered(run, options))
    return 0


def _answer_with_tools(session: Session, options: argparse.Namespace) -> int:
    if options.messages is not None or options.array is not None:
        raise BadInput("--agent: answers one question. Give it with --text or --file.")
    question = _prompt(session, options)["text"]
    done, beside = agent_command.answer(_model(session, options), question, options)
    _print_json({**_answered(done.run, options, agent_command.written(done)), **agent_command.described(done, beside)})
    return 130 if done.trajectory.ended == "cancelled" else 0


def _answered(run: TracedRun, options: argparse.Namespace, written: Collection[int] | None = None) -> dict[str, Any]:
    """What is printed of an answer, which is saved if that was asked for.

    written: positions of the tokens of the model; None = all after the prompt.
    """
    from attnviz.types import to_jsonable

    saved = runs_command.save(run, options)
    tokens = run.tokens
    first = run.generated_from or 0
    written = range(first, len(tokens)) if written is None else written
    return {
        "model": run.model.name,
        "category": run.run.category,
        "text": run.text,
        "answer": run.answer,
        "generated_from": first,
        "tokens": [
            {"index": i, "id": int(tokens.ids[i]), "label": label, "generated": i in written}
            for i, label in enumerate(tokens.labels)
        ],
        "sampling": to_jsonable(run.run.sampling),
        "ended": run.run.ended,
        **({} if saved is None else {"saved": saved.id}),
    }


def _demo(options: argparse.Namespace) -> int:
    demo_command.check(options)
    session = _session(options)
    printed, code = demo_command.run(session, _model(session, options), options)
    _print_json(printed)
    return code


# --------------------------------------------------------------------------------------------- small steps


def _registry(options: argparse.Namespace) -> Registry:
    from attnviz.registry import load_registry

    return load_registry(safe=options.no_plugins)


def _session(options: argparse.Namespace) -> Session:
    from attnviz.session import Session

    return Session(_registry(options), settings=options.settings)


def _model(session: Session, options: argparse.Namespace) -> LoadedModel:
    with Line(sys.stderr) as line:
        line(0.0, f"Loading {options.model}")
        model = session.load(
            options.model,
            backend=options.backend,
            revision=options.revision,
            dtype=options.dtype,
            device=options.device,
        )
    if model.card.device == "ndif":
        print(f"attnviz: {model.name} {model.card.notes[0]}", file=sys.stderr)
    return model


def _params(texts: Sequence[str]) -> dict[str, str]:
    params: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise BadInput(f"-p: expected NAME=VALUE, got {text!r}.")
        if name in params:
            raise BadInput(f"-p: {name} is given twice, as {params[name]!r} and {value!r}. Give it once.")
        params[name] = value
    return params


def _prompt(session: Session, options: argparse.Namespace) -> dict[str, Any]:
    if options.messages is not None:
        return {"messages": _read(session, "conversation", "--messages", options.messages)}
    if options.array is not None:
        return dict(_read(session, "numbers", "--array", options.array))
    return {"text": options.text if options.file is None else _read_text(options.file)}


def _read(session: Session, format: str, option: str, file: str) -> Any:
    """What a format plugin reads from a file."""
    found = session.registry.formats.get(format)
    if found is None or found.read is None:
        raise BadInput(f"{option} needs the format plugin {format!r}, which is not loaded.")
    return found.read(Path(file))


def _read_text(name: str) -> str:
    """The text of a file, or of standard input for "-". Raises BadInput: unreadable, too large, not UTF-8."""
    try:
        if name == "-":
            data = sys.stdin.buffer.read(TEXT_BYTES + 1)
        else:
            with Path(name).open("rb") as file:
                data = file.read(TEXT_BYTES + 1)
        if len(data) > TEXT_BYTES:
            raise BadInput(f"--file {name}: expected at most {TEXT_BYTES >> 20} MiB of text.")
        return data.decode("utf-8")
    except OSError as error:
        raise BadInput(f"--file {name}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise BadInput(f"--file {name}: expected UTF-8 text, byte {error.start} is not.") from error


if __name__ == "__main__":
    sys.exit(main())
