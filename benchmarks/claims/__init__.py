"""The claims of the paper in miniature, on any images: which method wins, and at what cost.

python -m benchmarks.claims --config benchmarks/claims/cifar10.yaml --out claims-output

config   what is compared on: images, teacher, student, budget
rows     the comparisons, as data: one row a way to train, one run a row and seed
running  labels and runs, each resumable; finished ones are left alone
timing   seconds per epoch, in alternating short runs on a quiet machine
networks what the teacher knows, and the forward pass of both networks
verdicts the paper's orderings and costs, held against what came out
report   tables and pictures of what is finished
"""
