// A network's parameters as an engine finds them, and a block's memory beside its own: plain data that travels as a
// kernel's parameter. What the matrices join is the layout's.
#pragma once
#include "layout.h"

namespace hamiltorch {

template <class T>
struct Parameters {
  Activation activation;
  const T* weights[kMostHidden];               // [width of the matrix's rows][width of its columns]
  const T* biases[kMostHidden];                // of layer l >= 1: [width_l]; biases[0] unused, it is in what enters
  const T* head;                               // [width_last]
  const void* packed[kMostHidden];             // fragments of the matrix, in units of 16 x 16: [row tile][column tile]
  const void* packed_transposed[kMostHidden];  // of its transpose: [column tile][row tile]
  T* exchange;                                 // grid teams: [teams][members][halves * half_size]
  T* vectors;                                  // where not in shared memory: [teams][members][vectors_size]
};

// Packed matrices lie in memory one after another, first all in one direction, then all in the other.
template <class Layout>
int64_t packed_bytes(const Layout& layout, int64_t unit_bytes) {
  int64_t units = 0;
  for (int matrix = 0; matrix < layout.matrices(); ++matrix) units += 2 * layout.units(matrix);
  return units * unit_bytes;
}
template <class T, class Layout>
void place_packed(const Layout& layout, int64_t unit_bytes, const char* memory, Parameters<T>* parameters) {
  const char* forward = memory;
  const char* transposed = memory + packed_bytes(layout, unit_bytes) / 2;
  for (int matrix = 0; matrix < layout.matrices(); ++matrix) {
    parameters->packed[matrix] = forward;
    parameters->packed_transposed[matrix] = transposed;
    forward += layout.units(matrix) * unit_bytes;
    transposed += layout.units(matrix) * unit_bytes;
  }
}

}  // namespace hamiltorch
