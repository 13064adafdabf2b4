"""Colours and type: local fonts only, so that the page asks no other host for anything."""

from __future__ import annotations

import gradio as gr


def theme() -> gr.themes.Base:
    """Dense and calm; light and dark. Weights 400 and 700: the semi-bold files gradio brings lack Latin letters."""
    return gr.themes.Default(
        primary_hue=gr.themes.colors.blue,
        secondary_hue=gr.themes.colors.blue,
        neutral_hue=gr.themes.colors.slate,
        spacing_size=gr.themes.sizes.spacing_sm,
        radius_size=gr.themes.sizes.radius_sm,
        text_size=gr.themes.sizes.text_sm,
        font=(gr.themes.LocalFont("IBM Plex Sans", weights=(400, 700)), "ui-sans-serif", "system-ui", "sans-serif"),
        font_mono=(gr.themes.LocalFont("IBM Plex Mono", weights=(400, 700)), "ui-monospace", "monospace"),
    ).set(
        button_large_text_size="*text_md",
        button_large_padding="6px 10px",
        block_label_text_size="*text_xs",
        block_title_text_size="*text_xs",
        block_title_text_color="*body_text_color_subdued",
        block_shadow="none",
    )
