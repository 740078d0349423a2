"""What the dashboards have in common: variables, deploy marks, links between them, and their time range."""

from typing import Final

from grafana_foundation_sdk.builders import dashboard as dashboard_builder
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import dashboard

from dashboards.panels import SOURCE, Panel
from dashboards.series import NAMESPACE, REVISION, SERVICE, of

TAG: Final = "knative-diffusion"

MODELS: Final = of("sd_model_info")
DEPLOYS: Final = (
    f"count by ({REVISION}, model) ({MODELS})"
    f" unless count by ({REVISION}, model) (last_over_time({MODELS}[1d] offset 2m))"
)
"""A revision and checkpoint that no pod showed in the day before: a deploy or a change of checkpoint."""


class _Deploys(Builder[dashboard.AnnotationQuery]):
    """The annotation that marks :data:`DEPLOYS`; the SDK lacks the fields that Prometheus adds to it."""

    class _Query(dashboard.AnnotationQuery):
        def to_json(self) -> dict[str, object]:
            extra = {"step": "60s", "titleFormat": f"{{{{{REVISION}}}}}", "textFormat": "{{model}}"}
            return {**super().to_json(), **extra, "tagKeys": REVISION}

    def build(self) -> dashboard.AnnotationQuery:
        return self._Query(
            name="Deploys", datasource=SOURCE, enable=True, icon_color="blue", expr=DEPLOYS, hide=False
        )


def _choice(name: str, label: str, query: str, *, multi: bool = True) -> dashboard_builder.QueryVariable:
    variable = dashboard_builder.QueryVariable(name).label(label).datasource(SOURCE)
    variable.query({"query": query, "refId": name, "qryType": 1})
    variable.refresh(dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED).sort(
        dashboard.VariableSort.ALPHABETICAL_ASC
    )
    variable.multi(multi).include_all(True).all_value(".+")
    return variable.current(dashboard.VariableOption(selected=True, text=["All"], value=["$__all"]))


def start(name: str, title: str, about: str) -> dashboard_builder.Dashboard:
    """An empty dashboard ``title`` with the variables, annotations and links that all of them have."""
    board = dashboard_builder.Dashboard(f"Stable Diffusion / {title}").uid(f"{TAG}-{name}").description(about)
    board.tags([TAG]).timezone("browser").time("now-1h", "now").refresh("30s").editable()
    board.tooltip(dashboard.DashboardCursorSync.CROSSHAIR)
    board.with_variable(
        dashboard_builder.DatasourceVariable("datasource").label("Prometheus").type("prometheus")
    )
    board.with_variable(_choice("namespace", "Namespace", f"label_values(sd_queue_limit, {NAMESPACE})"))
    board.with_variable(
        _choice("service", "Service", f'label_values(sd_queue_limit{{{NAMESPACE}=~"$namespace"}}, {SERVICE})')
    )
    board.with_variable(
        _choice(
            "revision",
            "Revision",
            f'label_values(sd_queue_limit{{{NAMESPACE}=~"$namespace", {SERVICE}=~"$service"}}, {REVISION})',
        )
    )
    board.annotation(_Deploys())
    board.link(
        dashboard_builder.DashboardLink("Stable Diffusion")
        .type(dashboard.DashboardLinkType.DASHBOARDS)
        .tags([TAG])
        .icon("external link")
        .tooltip("The other dashboards of this service, with the same choices and time range")
        .include_vars(True)
        .keep_time(True)
    )
    return board


def section(board: dashboard_builder.Dashboard, title: str, *panels: Panel) -> None:
    """Put a titled row and its panels on ``board``; widths must fill whole rows of 24 columns."""
    board.with_row(dashboard_builder.Row(title))
    filled = 0
    for panel in panels:
        position = panel.build().grid_pos
        assert position is not None
        filled += position.w
        if filled > 24:
            raise ValueError(
                f"Row {title!r}: the panels of one line are {filled} columns wide, Grafana has 24."
            )
        filled %= 24
        board.with_panel(panel)
    if filled:
        raise ValueError(f"Row {title!r}: {24 - filled} columns of its last line are empty.")
