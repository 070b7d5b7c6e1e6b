"""The sections of a report, one file each: its text, its tables and its pictures.

A section is a function from a `Context` to a `Section`, or to None if there is nothing to report. To add a section,
write its file, and add its function to the list below.
"""

from comparison.sections import (
    amount_of_data,
    calibration,
    classes,
    common_errors,
    conclusions,
    cost,
    differences,
    learning_curves,
    quality,
    robustness,
    run_list,
)

# In the report's order, for each cohort. opening.py and methods.py come once, before and after all of these.
SECTIONS = [
    conclusions.section,
    quality.section,
    differences.section,
    cost.section,
    classes.section,
    common_errors.section,
    calibration.section,
    amount_of_data.section,
    robustness.section,
    learning_curves.section,
    run_list.section,
]
