# Recipes; `just` lists them. CI runs the same commands.

default:
    @just --list

# install what running and testing need into the active environment
setup:
    pip install -r requirements-dev.txt

# the whole test suite (browser tests are skipped where there is no Chromium)
test *arguments:
    python -m pytest {{arguments}}

# the long proofs
test-slow:
    python -m pytest -m slow

# against Inseq and Captum themselves, in an environment with requirements-oracles.txt
oracles:
    python -m pytest -m oracles

# style, layering, types
lint:
    ruff check .
    ruff format --check .
    lint-imports
    mypy

# repair what can be repaired by a program
fix:
    ruff check --fix .
    ruff format .

# the README's picture and the table of families
docs:
    python docs/screenshot.py
    python docs/families.py

# open the app
run:
    python app.py

# ratios, each within one run: the app beside a bare Gradio app, the library, the capture beside a plain forward
bench:
    python bench/startup.py
    PYTHONPATH=. python bench/library.py
    PYTHONPATH=. python bench/capture.py
    PYTHONPATH=. python bench/sensors.py

# attribution beside Inseq and Captum (minutes), in an environment with requirements-oracles.txt
bench-attribution:
    PYTHONPATH=. python bench/attribution.py

# train the embedded models again (about half an hour on one core)
train:
    python -m attnviz.demo.train
    for name in combustion thermal_command predictive_maintenance; do python -m attnviz.demo.sensors.train --process $name; done

# everything CI does, in a fresh environment
ci:
    bash .ci/run
