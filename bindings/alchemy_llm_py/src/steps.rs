//! Steps as the tuples that `_native.pyi` lists.

use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::stream::Step;

impl<'py> IntoPyObject<'py> for Step {
    type Target = PyTuple;
    type Output = Bound<'py, PyTuple>;
    type Error = PyErr;

    fn into_pyobject(self, py: Python<'py>) -> PyResult<Self::Output> {
        match self {
            Step::Start => (0, 0, "").into_pyobject(py),
            Step::TextStart(index) => (1, index, "").into_pyobject(py),
            Step::TextDelta(index, text) => (2, index, text).into_pyobject(py),
            Step::TextEnd(index) => (3, index, "").into_pyobject(py),
            Step::ThinkingStart(index) => (4, index, "").into_pyobject(py),
            Step::ThinkingDelta(index, text) => (5, index, text).into_pyobject(py),
            Step::ThinkingEnd(index, signature) => (6, index, signature).into_pyobject(py),
            Step::CallStart(index, id, name) => (7, index, id, name).into_pyobject(py),
            Step::CallDelta(index, text) => (8, index, text).into_pyobject(py),
            Step::End(facts) => (9, 0, facts).into_pyobject(py),
        }
    }
}
