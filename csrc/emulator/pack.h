// What csrc/cuda/pack_kernel.h does.
#pragma once
#include "../cuda/pack.h"
#include "../cuda/parameters.h"

namespace hamiltorch {

template <class Math, class Layout>
void pack(const Parameters<typename Math::Real>& parameters, const Layout& layout) {
  for (int matrix = 0; matrix < layout.matrices(); ++matrix) {
    const int rows = layout.widths[layout.rows_layer(matrix)], columns = layout.widths[layout.columns_layer(matrix)];
    for (const bool transposed : {false, true}) {
      auto* const to = static_cast<typename Math::Packed*>(
          const_cast<void*>(transposed ? parameters.packed_transposed[matrix] : parameters.packed[matrix]));
      for (int64_t i = 0; i < packed_count<Math>(rows, columns); ++i)
        to[i] = pack_fragment<Math>(parameters.weights[matrix], rows, columns, transposed, i);
    }
  }
}

}  // namespace hamiltorch
