"""`fkd analyze attention`: Grad-CAM and guided backpropagation side by side (Figs. 6 and 7)."""

from rich.console import Console
from rich.table import Column, Table

from fkd.analysis.attention import (
    AttentionConfig,
    AttentionReport,
    compare_attention,
)
from fkd.analysis.attention_figure import attention_numbers, draw_attention, summarize
from fkd.analysis.figures import require_matplotlib, save_analysis
from fkd.cli.console import make_bar, make_console, print_remark
from fkd.data.sources import ImagesConfig
from fkd.userfiles import home_path


def attention(
    models: list[str],
    *,
    images: ImagesConfig,
    checkpoint: str | None = None,
    num_shown: int = 4,
    shown: list[str] = [],  # noqa: B006 - never changed, and the parser reads its default
    num_images: int = 100,
    seed: int = 0,
    target: str = "predicted",
    layer: str = "auto",
    input_size: int | None = None,
    batch_size: int = 16,
    num_workers: int = 2,
    device: str | None = None,
    out: str = "analysis",
) -> None:
    """Show where several models look on the same images, and measure area and confidence.

    Each model gets the center crop of its own evaluation. Beside Grad-CAM stand guided
    backpropagation and guided Grad-CAM, for networks with ReLUs.

    Args:
        models: folders of finished runs; timm models, or "torchvision/NAME".
        images: to choose from.
        checkpoint: weights for a single model that is named; by default its pretrained ones.
        num_shown: images in the figure, drawn at random, of different classes as far as possible.
        shown: instead of these, images by their paths below the root.
        num_images: drawn at random, for area and confidence.
        seed: of the draws.
        target: whose map: predicted is each model's most probable class, truth the class of the
            image, anything else a class by name.
        layer: module whose activations are weighted, of all models, or one per model with commas;
            auto is the last layer with positions.
        input_size: side of the crops, pixels; by default each model's own.
        batch_size: images in a forward pass.
        num_workers: threads that decode images.
        device: cpu, cuda, cuda:1, mps, xpu; by default cuda if there is one.
        out: folder of attention.svg, attention.png and attention.json.
    """
    require_matplotlib()
    config = AttentionConfig(
        models=models,
        images=images,
        checkpoint=checkpoint,
        num_shown=num_shown,
        shown=shown,
        num_images=num_images,
        seed=seed,
        target=target,
        layer=layer,
        input_size=input_size,
        batch_size=batch_size,
        num_workers=num_workers,
        device=device,
    )
    console = make_console()
    report = _compare(config, console)
    figure = draw_attention(report)
    files = save_analysis(home_path(out), "attention", figure, attention_numbers(report))
    for remark in report.remarks:
        print_remark(console, remark)
    _print(report, console)
    console.print(f"figure    {files[0]}, {files[1].name}; numbers {files[2].name}")


def _compare(config: AttentionConfig, console: Console) -> AttentionReport:
    with make_bar(console) as bar:
        task = bar.add_task("maps", total=None)
        return compare_attention(
            config, lambda done, total: bar.update(task, completed=done, total=total)
        )


def _print(report: AttentionReport, console: Console) -> None:
    table = Table(
        Column("model", no_wrap=True),
        *("layer", "map", "area", "confidence", "images"),
        title=f"class of the maps: {report.config.target}",
        title_justify="left",
    )
    for model in report.models:
        table.add_row(
            model.label,
            model.layer.name,
            f"{model.layer.grid.side}x{model.layer.grid.side}",
            *(_spread(summarize(each)) for each in (model.areas, model.confidences)),
            f"{len(model.areas):,}",
        )
    console.print(table, soft_wrap=False)


def _spread(values: dict[str, float | int | None]) -> str:
    if values["mean"] is None:
        return "-"
    return f"{values['mean']:.3f}" + (f" ± {values['std']:.3f}" if values["std"] else "")
