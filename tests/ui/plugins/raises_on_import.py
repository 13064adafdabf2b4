"""A plugin that fails: the app must live on and say why."""

raise RuntimeError("this plugin is <b>broken</b>")
