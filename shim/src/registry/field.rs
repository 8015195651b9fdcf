//! Field errors: a path, a reason and a text, worded as apimachinery's `field.Error`.

/// `causes[].reason` of an Invalid status.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    NotFound,
    Required,
    Duplicate,
    Invalid,
    NotSupported,
    Forbidden,
    TooLong,
    TooMany,
    Internal,
    TypeInvalid,
}

/// One field's error.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FieldError {
    pub cause: Cause,
    /// `spec.containers[0].name`.
    pub field: String,
    /// The text as `Status.details.causes[].message` has it: `Required value: …`, `Invalid value: "x": …`.
    pub message: String,
}
