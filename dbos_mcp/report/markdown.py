"""A report as Markdown."""

from dbos_mcp.report.subjects import FailuresReport, WorkflowReport


def markdown(report: WorkflowReport | FailuresReport) -> str:
    return report.title
