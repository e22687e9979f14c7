"""Grading what strangers wrote: `python -m fdlib.course` release, grade, report, syllabus. INSTRUCTORS.md is the manual.

    submissions   which files are whose, and whether they can be graded at all
    jail          the walls: a program that makes namespaces, limits, a new root, and becomes the student's process in them
    sandbox       the same from outside: which walls this system has, starting a jail, ending all that lives in it
    runner        inside: the notebook's cells in order, in a Jupyter kernel
    worker        inside the kernel: lends the student's objects to the judge
    witness       inside the kernel: notes what reaches beyond the submission's folder; informs a person, grades nothing
    wire          what crosses the wall: data in one direction, never code
    judge         outside: runs the instructor's checks on objects that stay inside
    grade         a class: in parallel, resumable
    report        points for a learning-management system, feedback for each student, statistics
    release       the students' zip
    syllabus      ten weeks, computed from the notebooks

The verdict is reached in a process that no student's code ever enters. A check calls ``answer(x)`` as always, but
``answer`` is a `wire.Remote`: the arguments travel into the jail, the student's function runs there, and numbers come back.
"""
