"""The sections of a report, one file each: its text, its tables and its pictures.

A section is a function that makes a `Section` of a `Context`, or None where there is nothing to tell. To add one, write
its file, and put it into the list.
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

# In the order of the report. What is compared, and how it was computed, are told once, before and after these.
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
