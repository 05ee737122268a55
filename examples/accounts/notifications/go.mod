module eventmesh.dev/examples/notifications

go 1.26.0
