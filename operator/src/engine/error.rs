//! What can fail in a pass: the step and the cause, with a class that decides how soon it is tried again.

use crate::broker::BrokerError;

/// A step that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{step}: {source}")]
    Kubernetes { step: &'static str, source: Box<kube::Error> },
    #[error("{step}: {source}")]
    Broker { step: &'static str, source: BrokerError },
    #[error("make the identities: {problem}")]
    Identity { problem: String },
    #[error("make a certificate: {0}")]
    Certificate(#[from] rcgen::Error),
}

/// Kind of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Somebody else changed the same thing; the next pass sees it.
    Conflict,
    /// The API server or the broker cannot answer now.
    Unavailable,
    /// The object's namespace is being deleted, and the object with it: nothing can be made there any more.
    Leaving,
    /// The operator may not do this.
    Denied,
    /// Anything else.
    Internal,
}

impl Class {
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Conflict => "conflict",
            Self::Unavailable => "unavailable",
            Self::Leaving => "leaving",
            Self::Denied => "denied",
            Self::Internal => "internal",
        }
    }
}

impl Error {
    /// For `map_err`: what the operator was doing when Kubernetes answered with an error.
    pub fn kubernetes(step: &'static str) -> impl FnOnce(kube::Error) -> Self {
        move |source| Self::Kubernetes { step, source: Box::new(source) }
    }

    /// For `map_err`: what the operator was doing when the broker answered with an error.
    pub fn broker(step: &'static str) -> impl FnOnce(BrokerError) -> Self {
        move |source| Self::Broker { step, source }
    }

    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Self::Kubernetes { source, .. } if is_leaving(source) => Class::Leaving,
            Self::Kubernetes { source, .. } => match &**source {
                kube::Error::Api(status) => class_of(status.code),
                kube::Error::Service(_) | kube::Error::HyperError(_) => Class::Unavailable,
                _ => Class::Internal,
            },
            Self::Broker { source, .. } if source.is_temporary() => Class::Unavailable,
            Self::Broker { .. } | Self::Identity { .. } | Self::Certificate(_) => Class::Internal,
        }
    }
}

fn class_of(code: u16) -> Class {
    match code {
        404 | 409 => Class::Conflict,
        401 | 403 => Class::Denied,
        429 | 500..=599 => Class::Unavailable,
        _ => Class::Internal,
    }
}

/// Whether the API server answered that the namespace is being deleted.
#[must_use]
pub fn is_leaving(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else { return false };
    let causes = status.details.iter().flat_map(|details| &details.causes);
    causes.into_iter().any(|cause| cause.reason == "NamespaceTerminating")
}

/// Whether the API server answered that the object is not there.
#[must_use]
pub fn is_not_found(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

#[cfg(test)]
mod tests {
    use kube::core::Status;
    use serde_json::json;

    use super::*;

    fn refused(causes: &serde_json::Value) -> Class {
        let status = json!({"status": "Failure", "code": 403, "reason": "Forbidden", "details": {"causes": causes}});
        let status: Status = serde_json::from_value(status).unwrap();
        Error::kubernetes("apply a child")(kube::Error::Api(Box::new(status))).class()
    }

    #[test]
    fn a_namespace_that_goes_is_no_missing_right() {
        assert_eq!(
            refused(&json!([{"reason": "NamespaceTerminating", "field": "metadata.namespace"}])),
            Class::Leaving
        );
        assert_eq!(refused(&json!([])), Class::Denied);
    }
}
