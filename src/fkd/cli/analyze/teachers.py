"""`fkd analyze teachers`: teachers and stores side by side on the same crops."""

from dataclasses import asdict, dataclass, fields

from rich.console import Console
from rich.table import Column, Table

from fkd.analysis.figures import prepare_folder, require_matplotlib, save_analysis
from fkd.analysis.teacher_rows import SortKey, TeacherRow, TeachersReport, report_numbers
from fkd.analysis.teachers import TeachersConfig, compare_teachers
from fkd.analysis.teachers_figure import draw_teachers
from fkd.checks import require_one_of
from fkd.cli.analyze.bars import task_bars
from fkd.cli.console import make_console, print_remark
from fkd.cli.verbs import VERBS
from fkd.data.sources import refuse_same_folder
from fkd.errors import ConfigError
from fkd.userfiles import home_path


@dataclass(frozen=True, kw_only=True)
class TeachersOptions(TeachersConfig):
    """A comparison of teachers, and how it is shown.

    Attributes:
        sort: order of rows: as given; by rising entropy, confidence, calibration error, ms or macs;
            or by falling crop_accuracy or image_accuracy.
        out: folder of teachers.svg, teachers.png and teachers.json.
    """

    sort: SortKey = "given"
    out: str = "analysis"

    def __post_init__(self) -> None:
        if not self.models and not self.stores:
            raise ConfigError(
                "analyze teachers needs --models.NAME MODEL or --stores.NAME STORE, e.g. "
                f"{VERBS['analyze teachers'].example} (fkd analyze teachers --help)"
            )
        super().__post_init__()
        require_one_of(SortKey, "sort", self.sort)


def teachers(options: TeachersOptions) -> None:
    """Compare teachers on the same random crops of your images, before one of them labels all.

    Entropy, accuracy on crops and on whole images, calibration, agreement with each other, and the
    cost of a crop. The most accurate teacher often is not the one whose students are best, so
    nothing here is a verdict.
    """
    require_matplotlib()
    refuse_same_folder(options.out, options.images)
    prepare_folder(home_path(options.out))
    config = TeachersConfig(
        **{field.name: getattr(options, field.name) for field in fields(TeachersConfig)}
    )
    console = make_console()
    with task_bars(console) as begin:
        report = compare_teachers(config, begin).sorted(options.sort)
    numbers = {"settings": _settings(config), **report_numbers(report)}
    files = save_analysis(home_path(options.out), "teachers", draw_teachers(report), numbers)
    _print(report, console)
    console.print(f"figure    {files[0]}, {files[1].name}; numbers {files[2].name}")


def more_help() -> str:
    """How models and stores are named."""
    return (
        "Each model and each store has a name of yours:\n"
        "  --models.lite0 tf_efficientnet_lite0 --models.mine runs/teacher --stores.ms5 labels\n"
        '  --models.soft "{name: resnet50, temperature: 2}"\n'
        "With stores, the crops are those of the first store; another store can be compared crop\n"
        "by crop if it has the same crops (the same crops.seed)."
    )


def _settings(config: TeachersConfig) -> dict[str, object]:
    """Those that numbers depend on, but for where files are."""
    free = {"images", "models", "stores", "device", "num_workers"}
    return {name: value for name, value in asdict(config).items() if name not in free}


def _print(report: TeachersReport, console: Console) -> None:
    console.print(
        f"crops     {report.num_crops} of each of {report.num_images:,} images, labels of "
        f"{len(report.class_names):,} classes"
    )
    for remark in report.remarks:
        print_remark(console, remark)
    columns = ("entropy", "top-1 p", "crops", "images", "ECE", "ms", "GMACs", "B/crop")
    table = Table(
        Column("name", overflow="fold"),
        *(Column(name, justify="right") for name in columns),
        caption="entropy in nats; accuracy on crops and on whole images; cost and bytes of a crop",
        caption_justify="left",
    )
    for row in report.rows:
        table.add_row(row.name, *_cells(row))
    console.print(table, soft_wrap=False)
    if len(report.rows) > 1:
        console.print(_agreement(report), soft_wrap=False)


def _cells(row: TeacherRow) -> list[str]:
    labels, cost = row.labels, row.cost
    return [
        f"{labels.entropy:.3f}",
        f"{labels.confidence:.3f}",
        _percent(labels.accuracy),
        _percent(row.image_accuracy),
        "-" if labels.calibration_error is None else f"{labels.calibration_error:.3f}",
        "-" if cost is None else f"{cost.milliseconds:.3g}",
        "-" if cost is None else f"{cost.macs / 1e9:.3g}",
        "-" if row.bytes_per_crop is None else f"{row.bytes_per_crop:.1f}",
    ]


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def _agreement(report: TeachersReport) -> Table:
    names = [row.name for row in report.rows]
    table = Table(
        Column(""),
        *(Column(name, justify="right") for name in names),
        title="top-1 agreement, KL(row || column) in nats",
        title_justify="left",
    )
    for name, row in zip(names, report.agreement, strict=True):
        cells = ["-" if c is None else f"{c.top1_agreement:.1%}, {c.mean_kl:.3f}" for c in row]
        table.add_row(name, *cells)
    return table
