// SPDX-License-Identifier: Apache-2.0
//! The one module with unsafe code: a checked face of `matrixmultiply::sgemm`, and views of `f32` as bytes.
//!
//! Invariant: a [`Matrix`] never describes an element outside its slice. [`Matrix::new`] checks it with
//! arithmetic that can't overflow, and the fields are private to this module.

/// A read-only view of `rows * columns` elements in a slice.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: isize,
    column_stride: isize,
}

impl<'a> Matrix<'a> {
    /// A row-major matrix over all of `data`; `None` if it has another number of elements.
    pub(crate) fn new(data: &'a [f32], rows: usize, columns: usize) -> Option<Matrix<'a>> {
        if rows.checked_mul(columns)? != data.len() {
            return None;
        }
        // A column count beyond `isize` leaves no room for a row, and an empty matrix is never read.
        let row_stride = isize::try_from(columns).ok()?;
        Some(Matrix { data, rows, columns, row_stride, column_stride: 1 })
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn columns(&self) -> usize {
        self.columns
    }

    /// The transpose: the same elements, with rows and columns exchanged.
    pub(crate) fn transposed(self) -> Matrix<'a> {
        Matrix {
            data: self.data,
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
        }
    }

    /// Address of the first element of row `first`, for rows `first..first + count` inside the matrix.
    ///
    /// # Panics
    ///
    /// If these rows are not inside, or there is no element.
    fn rows_from(&self, first: usize, count: usize) -> *const f32 {
        assert!(first.checked_add(count).is_some_and(|end| end <= self.rows), "rows outside the matrix");
        let start = first * self.row_stride.unsigned_abs();
        self.data[start..].as_ptr()
    }
}

/// `c = alpha * a[first..] * b + beta * c`, where the rows of `a` from `first` on are as many as `c` has.
///
/// If `beta` is 0, `c` is not read.
///
/// # Panics
///
/// If the dimensions do not fit one another.
pub(crate) fn sgemm_rows(alpha: f32, a: Matrix<'_>, first: usize, b: Matrix<'_>, beta: f32, c: &mut [f32]) {
    let (depth, columns) = (a.columns, b.columns);
    assert_eq!(depth, b.rows, "A has as many columns as B has rows");
    if c.is_empty() {
        return;
    }
    assert!(depth > 0, "a product without terms is the caller's to handle");
    assert!(c.len().is_multiple_of(columns), "the result is made of whole rows");
    let rows = c.len() / columns;
    let a_start = a.rows_from(first, rows);
    let b_start = b.rows_from(0, depth);
    let c_stride = isize::try_from(columns).expect("a slice holds a row, so its length fits isize");
    // SAFETY: `a_start` and `b_start` lead to `rows * depth` and `depth * columns` elements at the given
    // strides, all inside live slices: `Matrix` guarantees it and `rows_from` checked the rows. `c` is
    // exclusively borrowed, has exactly `rows * columns` elements at strides (columns, 1), and so
    // overlaps neither. All elements are initialised, because they come from slices.
    unsafe {
        matrixmultiply::sgemm(
            rows,
            depth,
            columns,
            alpha,
            a_start,
            a.row_stride,
            a.column_stride,
            b_start,
            b.row_stride,
            b.column_stride,
            beta,
            c.as_mut_ptr(),
            c_stride,
            1,
        );
    }
}

/// The bytes of these numbers, in this machine's order.
pub(crate) fn as_bytes(values: &[f32]) -> &[u8] {
    // SAFETY: every byte of an `f32` is initialised, `u8` has no alignment, and the length is the size in bytes of
    // a live slice, whose borrow the result keeps.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

/// The bytes of these numbers, to be written; any bytes are valid numbers.
pub(crate) fn as_bytes_mut(values: &mut [f32]) -> &mut [u8] {
    let bytes = size_of_val(values);
    // SAFETY: as in `as_bytes`; the borrow is exclusive, and every bit pattern is a valid `f32`.
    unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), bytes) }
}

/// These bytes as numbers, if they are aligned for it and make up whole numbers.
pub(crate) fn as_f32s(bytes: &[u8]) -> Option<&[f32]> {
    // SAFETY: every bit pattern is a valid `f32`, and `align_to` itself keeps to alignment and length.
    let (before, values, after) = unsafe { bytes.align_to::<f32>() };
    (before.is_empty() && after.is_empty()).then_some(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matrices_cover_their_slice_exactly() {
        let data = [0.0; 6];
        assert!(Matrix::new(&data, 2, 3).is_some());
        assert!(Matrix::new(&data, 2, 2).is_none());
        assert!(Matrix::new(&data, usize::MAX, 2).is_none());
        assert!(Matrix::new(&[], 0, usize::MAX).is_none());
        assert!(Matrix::new(&[], 7, 0).is_some());
    }

    #[test]
    fn rows_are_picked_in_both_orders() {
        let data = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let one = Matrix::new(&[1.0, 1.0], 2, 1).unwrap();
        let a = Matrix::new(&data, 3, 2).unwrap();
        let mut c = [f32::NAN; 2];
        sgemm_rows(1.0, a, 1, one, 0.0, &mut c);
        assert_eq!(c, [7.0, 11.0]);
        let a = Matrix::new(&data, 2, 3).unwrap().transposed();
        sgemm_rows(1.0, a, 1, one, 0.0, &mut c);
        assert_eq!(c, [7.0, 9.0]);
    }

    #[test]
    #[should_panic(expected = "rows outside the matrix")]
    fn rows_outside_are_refused() {
        let a = Matrix::new(&[1.0], 1, 1).unwrap();
        sgemm_rows(1.0, a, 1, a, 0.0, &mut [0.0]);
    }

    #[test]
    #[should_panic(expected = "as many columns")]
    fn dimensions_must_fit() {
        let a = Matrix::new(&[1.0, 2.0], 1, 2).unwrap();
        sgemm_rows(1.0, a, 0, a, 0.0, &mut [0.0]);
    }

    #[test]
    fn bytes_and_numbers() {
        let mut values = [1.0, -2.5];
        as_bytes_mut(&mut values)[..4].fill(0);
        assert_eq!(values, [0.0, -2.5]);
        assert_eq!(as_f32s(as_bytes(&values)), Some(&values[..]));
        assert_eq!(as_f32s(&as_bytes(&values)[1..5]), None);
        assert_eq!(as_f32s(&as_bytes(&values)[..3]), None);
    }
}
