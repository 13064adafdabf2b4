"""The model menu: the embedded models, and presets of the Hugging Face hub that are downloaded when first chosen."""

from __future__ import annotations

from pathlib import Path

from attnviz.hooks import ModelEntry, hookimpl

EMBEDDED = Path(__file__).resolve().parents[1] / "demo" / "language"
SENSORS = EMBEDDED.with_name("sensors") / "shipped"
EXAMPLES = (
    ("Knowledge", "What is the capital of France?"),
    ("Knowledge", "How many legs does a spider have?"),
    ("Knowledge", "What is a young horse called?"),
    ("Math", "What is 7 + 8?"),
    ("Math", "What is 25 * 37?"),  # declined: it has no tool here, and says so
    ("Reasoning", "Omar is older than Rosa. Rosa is older than Bob. Who is the oldest?"),
    ("Reasoning", "All wugs are blue. All daxs are loud. Tom is a wug. What is Tom?"),
    ("Reasoning", "Which is larger, 17 or 71?"),
    ("Code", "Write a Python function that adds two numbers."),
    ("Code", "Set x to 42 and print it."),
    ("Code", "Print yes if n is greater than 10."),
    ("Creative", "Write a short story about a fox."),
    ("Creative", "Write a poem about the moon."),
    ("Creative", "Tell me a story about a bear in a forest."),
)
AGENT = (
    "You are an agent with the tools {tools}. Reply with Thought, Action and Observation, then give the Final Answer."
)
TOOLS = ("calculator", "convert", "lookup", "time", "sensor", "python")
_DOWNLOADED = "Downloaded on first use."


@hookimpl
def attnviz_models() -> list[ModelEntry]:
    """The embedded models and four presets."""
    return [
        ModelEntry(
            name="demo",
            title="attnviz demo",
            source=str(EMBEDDED),
            size="2.7 MB, embedded",
            licence="Apache-2.0",
            note="1.3 million parameters, 6 layers of 4 heads, trained by this project on its own text; no download.",
            default=True,
            examples=EXAMPLES,
            first_run=str(EMBEDDED.with_name("first_run.safetensors")),
            agent=AGENT,
            tools=TOOLS,
        ),
        *_sensor_models(),
        ModelEntry(
            name="gpt2",
            title="GPT-2 small",
            source="gpt2",
            size="548 MB",
            licence="MIT",
            note=f"124 million parameters, 12 layers of 12 heads, continues English text. {_DOWNLOADED}",
        ),
        ModelEntry(
            name="distilgpt2",
            title="DistilGPT-2",
            source="distilgpt2",
            size="353 MB",
            licence="Apache-2.0",
            note=f"82 million parameters, 6 layers of 12 heads, continues English text. {_DOWNLOADED}",
        ),
        ModelEntry(
            name="Qwen/Qwen3-0.6B",
            title="Qwen3 0.6B",
            source="Qwen/Qwen3-0.6B",
            size="1.5 GB",
            licence="Apache-2.0",
            note=f"0.6 billion parameters, 28 layers of 16 heads over 8 key heads, chats. {_DOWNLOADED}",
        ),
        ModelEntry(
            name="bert-base-uncased",
            title="BERT base, uncased",
            source="bert-base-uncased",
            size="440 MB",
            licence="Apache-2.0",
            note=f"110 million parameters, 12 layers of 12 heads, reads both ways: no logit lens. {_DOWNLOADED}",
        ),
    ]


def _sensor_models() -> list[ModelEntry]:
    """Models of simulated processes, each with a table of its process to read."""
    made = (
        ("demo-sensors", "combustion", "Combustion sensors", 12),
        ("demo-thermal", "thermal_command", "Thermal sensors", 8),
        ("demo-maintenance", "predictive_maintenance", "Maintenance sensors", 8),
    )
    return [
        ModelEntry(
            name=name,
            title=title,
            source=str(SENSORS / process),
            size="0.3 MB, embedded",
            licence="Apache-2.0",
            note=f"70 000 parameters, 2 layers of 4 heads, reads {count} sensors of a simulated process.",
            data=((f"Simulated, {count} sensors, 240 minutes", str(SENSORS / process / "example.csv")),),
        )
        for name, process, title, count in made
    ]
