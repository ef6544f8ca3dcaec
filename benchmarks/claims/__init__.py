"""The comparisons of the paper in small, on any images: which method wins, and at what cost.

python -m benchmarks.claims --config benchmarks/claims/cifar10.yaml --out claims-output

    config        images, teacher, student, budget
    rows          the comparisons, as data: one row per way to train, one run per row and seed
    runs          labels and runs, each resumable; finished ones are left alone
    run_all       all runs, or their timing, then the report
    timing        seconds per epoch, in alternating short runs on a quiet machine
    networks      the teacher's accuracy, and the time of both networks' forward passes
    expectations  the paper's orderings and costs, compared with the results
    report        tables and pictures of what is finished

python -m benchmarks.claims.run_self_supervised --config benchmarks/claims/cifar10-ssl.yaml

    self_supervised   stored embeddings against an online teacher, by linear evaluation
"""
