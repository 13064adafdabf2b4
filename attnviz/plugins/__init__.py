"""The built-in plugins, written as anybody would write theirs: of attnviz they import `attnviz.hooks` only."""

BUILTIN = (
    "attnviz.plugins.backends.hf",
    "attnviz.plugins.backends.nnsight",
    "attnviz.plugins.analyses.attention_pattern",
    "attnviz.plugins.analyses.value_weighted",
    "attnviz.plugins.analyses.attention_stats",
    "attnviz.plugins.analyses.head_roles",
    "attnviz.plugins.analyses.rollout",
    "attnviz.plugins.analyses.logit_lens",
    "attnviz.plugins.renderers.attention_grid",
    "attnviz.plugins.renderers.head_map",
    "attnviz.plugins.renderers.lens_grid",
    "attnviz.plugins.renderers.attribution_text",
    "attnviz.plugins.renderers.token_strip",
    "attnviz.plugins.renderers.token_matrix",
    "attnviz.plugins.renderers.table_view",
    "attnviz.plugins.renderers.charts",
    "attnviz.plugins.renderers.html_page",
    "attnviz.plugins.renderers.picture",
    "attnviz.plugins.renderers.json_file",
    "attnviz.plugins.renderers.csv_file",
    "attnviz.plugins.formats.conversation",
    "attnviz.plugins.tools.calculator",
    "attnviz.plugins.menu",
)
"""Modules in the order they are registered; also the order of tabs and menus."""
