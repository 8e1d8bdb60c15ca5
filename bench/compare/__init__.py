"""The same load on several layouts of equal resources: which serves more, by how much, and why."""
