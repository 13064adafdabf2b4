"""Attention of one input as an array, its summary, its pictures and its reports, in a handful of calls.

    visualizer = attnviz.AttentionVisualizer(model, feature_names=["fuel_flow", "air_flow", …])
    weights = visualizer.extract_attention_weights(values)       # [layer, head, query, key]
    summary = visualizer.get_attention_summary(weights, top_k=5)
    visualizer.export_visualization(summary, ExportFormat.HTML)  # attention_summary.html

The numbers are those of the analyses attention_summary and attention_stats.
"""

from attnviz.visualizer.data import AttentionSummary, AttentionWeights, ExportFormat, VisualizationType
from attnviz.visualizer.visualizer import AttentionVisualizer

__all__ = ["AttentionSummary", "AttentionVisualizer", "AttentionWeights", "ExportFormat", "VisualizationType"]
