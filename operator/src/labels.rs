//! Labels of what the operator makes, by which it finds its own again.

/// Set on everything the operator makes.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
pub const MANAGED_BY_VALUE: &str = "eventmesh-operator";
/// Name of the EventMesh or Bridge that a child belongs to.
pub const INSTANCE: &str = "app.kubernetes.io/instance";
/// `broker`, `bridge`, `credentials` or `keys`.
pub const COMPONENT: &str = "app.kubernetes.io/component";
pub const NAME: &str = "app.kubernetes.io/name";
pub const PART_OF: &str = "app.kubernetes.io/part-of";
pub const PART_OF_VALUE: &str = "eventmesh";
/// Name of the mesh, on everything that belongs to one.
pub const MESH: &str = "eventmesh.dev/mesh";
/// Namespace of the mesh, on credentials, which live in the namespace of those who use them.
pub const MESH_NAMESPACE: &str = "eventmesh.dev/mesh-namespace";
/// Annotation on credentials: whose they are.
pub const PARTY: &str = "eventmesh.dev/identity";
/// Value of the component label on credentials.
pub const CREDENTIALS: &str = "credentials";
