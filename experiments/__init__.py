"""Many runs from one study file: what is to be run (`study_file`, `plan`), and its running here (`execution`) or by a
cluster's scheduler (`submission`). Each run is a process of its own; this package reads only what it leaves behind."""
