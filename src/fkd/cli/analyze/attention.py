"""`fkd analyze attention`: Grad-CAM and guided backpropagation side by side (Figs. 6 and 7)."""

from dataclasses import dataclass, fields

from rich.console import Console
from rich.table import Column, Table

from fkd.analysis.attention import AttentionReport, compare_attention
from fkd.analysis.attention_config import AttentionConfig
from fkd.analysis.attention_figure import attention_numbers, draw_attention, summarize
from fkd.analysis.figures import prepare_folder, require_matplotlib, save_analysis
from fkd.cli.console import make_bar, make_console, print_remark
from fkd.userfiles import home_path


@dataclass(frozen=True, kw_only=True)
class AttentionOptions(AttentionConfig):
    """A comparison of models, and where its figure goes.

    Attributes:
        out: folder of attention.svg, attention.png and attention.json.
    """

    out: str = "analysis"


def attention(options: AttentionOptions) -> None:
    """Show where several models look on the same images, and measure area and confidence.

    Each model gets the center crop of its own evaluation. Beside Grad-CAM stand guided
    backpropagation and guided Grad-CAM, for networks with ReLUs.
    """
    require_matplotlib()
    config = AttentionConfig(
        **{field.name: getattr(options, field.name) for field in fields(AttentionConfig)}
    )
    prepare_folder(home_path(options.out))
    console = make_console()
    report = _compare(config, console)
    figure = draw_attention(report)
    files = save_analysis(home_path(options.out), "attention", figure, attention_numbers(report))
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
