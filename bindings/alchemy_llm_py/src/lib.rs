//! `alchemy_llm_py._native`: the private half of the wheel. `_native.pyi` describes it; Python owns the API.

pub mod convert;
#[cfg(feature = "python")]
mod steps;
pub mod stream;

#[cfg(feature = "python")]
#[pyo3::pymodule(gil_used = true)]
mod _native {
    use std::sync::Arc;

    use bytes::Bytes;
    use pyo3::exceptions::{PyOSError, PyRuntimeError, PyValueError};
    use pyo3::prelude::*;
    use pyo3::types::PyList;

    use crate::convert::Request;
    use crate::stream;

    #[pyclass(frozen)]
    struct Waker(Arc<stream::Waker>);

    #[pymethods]
    impl Waker {
        #[new]
        fn new() -> PyResult<Self> {
            stream::Waker::new().map(Self).map_err(|error| PyOSError::new_err(error.to_string()))
        }

        fn fileno(&self) -> i32 {
            self.0.fileno()
        }

        fn drain(&self) -> Vec<u64> {
            self.0.drain()
        }
    }

    #[pyclass(frozen)]
    struct Stream(stream::Stream);

    #[pymethods]
    impl Stream {
        #[new]
        #[pyo3(signature = (request, body=None, waker=None))]
        fn new(request: &[u8], body: Option<&[u8]>, waker: Option<&Waker>) -> PyResult<Self> {
            let mut request: Request =
                serde_json::from_slice(request).map_err(|error| PyValueError::new_err(error.to_string()))?;
            request.exchange.whole_body = body.map(Bytes::copy_from_slice);
            let waker = waker.map(|waker| waker.0.clone());
            stream::Stream::open(request, waker).map(Self).map_err(PyValueError::new_err)
        }

        #[getter]
        fn id(&self) -> u64 {
            self.0.id()
        }

        fn take<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyList>>> {
            let steps = self.0.take().map_err(PyRuntimeError::new_err)?;
            steps.map(|steps| PyList::new(py, steps)).transpose()
        }

        fn close(&self) {
            self.0.close();
        }
    }
}
