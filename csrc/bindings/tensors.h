// torch's tensors without torch's headers: through DLPack's table of C functions, which the tensor type carries in
// newer versions of torch. One short call says where a tensor lies and how; reading its attributes would take longer
// than a small rollout does.
#pragma once
#include <pybind11/pybind11.h>

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <optional>
#include <type_traits>
#include <utility>
#include <vector>

#include "result_memory.h"

namespace hamiltorch {

// What is read here of DLPack 1, https://dmlc.github.io/dlpack/latest/c_api.html.
namespace dlpack {

inline constexpr uint32_t kMajor = 1;
inline constexpr int32_t kCpu = 1;
inline constexpr uint8_t kInt = 0, kFloat = 2, kBool = 6;

template <class T>
inline constexpr uint8_t kCode = std::is_same_v<T, bool>       ? kBool
                                 : std::is_floating_point_v<T> ? kFloat
                                                               : kInt;

struct Tensor {
  void* data;
  int32_t device_type, device_id;
  int32_t ndim;
  uint8_t code, bits;
  uint16_t lanes;
  const int64_t* shape;    // [ndim]
  const int64_t* strides;  // [ndim], in elements
  uint64_t byte_offset;
};

struct Managed {
  uint32_t major, minor;
  void* context;
  void (*release)(Managed* self);
  uint64_t flags;
  Tensor tensor;
};

struct Exchange {
  uint32_t major, minor;
  const void* older;
  void (*unused[2])();
  int (*make)(Managed* tensor, void** object);  // takes the tensor over; 0, or -1 with a Python exception
  int (*read)(void* object, Tensor* out);       // likewise
};

}  // namespace dlpack

// A tensor's memory, in order and without gaps. Valid while the tensor is alive and its shape is left alone.
template <class T>
struct View {
  T* data;
  int32_t ndim;
  const int64_t* shape;  // [ndim]

  template <class Sizes = std::initializer_list<int64_t>>
  bool has_shape(const Sizes& sizes) const {
    return std::equal(sizes.begin(), sizes.end(), shape, shape + ndim);
  }
};

// A tensor that was made here, or None, and its memory.
template <class T>
struct Result {
  pybind11::object tensor = pybind11::none();
  T* data = nullptr;
};

// A name that Python looks up by its address.
inline pybind11::object interned(const char* name) {
  return pybind11::reinterpret_steal<pybind11::object>(PyUnicode_InternFromString(name));
}

class Tensors {
 public:
  // `exchange` is the table's capsule, or None where torch has none: then nothing can be viewed. A subclass of the two
  // types may compute whatever it likes in place of its memory, so only these very types are read.
  Tensors(const pybind11::object& exchange, pybind11::object tensor, pybind11::object parameter)
      : tensor_(std::move(tensor)), parameter_(std::move(parameter)) {
    if (exchange.is_none()) return;
    const void* table = PyCapsule_GetPointer(exchange.ptr(), "dlpack_exchange_api");
    if (!table) throw pybind11::error_already_set();
    if (static_cast<const dlpack::Exchange*>(table)->major == dlpack::kMajor)
      exchange_ = static_cast<const dlpack::Exchange*>(table);
  }

  // Whether it is a tensor whose memory could be read.
  bool is_plain(pybind11::handle object) const {
    const pybind11::handle type(reinterpret_cast<PyObject*>(Py_TYPE(object.ptr())));
    return type.is(tensor_) || type.is(parameter_);
  }

  // Nothing unless `object` is a plain tensor of T's on the CPU, contiguous.
  template <class T>
  std::optional<View<T>> view(pybind11::handle object) const {
    if (!exchange_ || !exchange_->read || !is_plain(object)) return {};
    dlpack::Tensor t;
    if (exchange_->read(object.ptr(), &t) != 0) {  // it has no memory
      PyErr_Clear();
      return {};
    }
    if (t.device_type != dlpack::kCpu || t.code != dlpack::kCode<T> || t.bits != 8 * sizeof(T) || t.lanes != 1)
      return {};
    int64_t size = 1;
    bool in_order = true;
    for (int32_t i = t.ndim - 1; i >= 0; --i) {
      in_order = in_order && (t.shape[i] == 1 || t.strides[i] == size);
      size *= t.shape[i];
    }
    if (size != 0 && (!in_order || !t.data)) return {};
    // A negation that torch has put off leaves the strides of complex numbers, so that only one number looks in order.
    if (size == 1 && truth(PyObject_CallMethodNoArgs(object.ptr(), is_neg_.ptr()))) return {};
    return View<T>{reinterpret_cast<T*>(static_cast<char*>(t.data) + t.byte_offset), t.ndim, t.shape};
  }

  bool requires_grad(pybind11::handle tensor) const {
    return truth(PyObject_GetAttr(tensor.ptr(), requires_grad_.ptr()));
  }

  bool is_inference(pybind11::handle tensor) const {
    return truth(PyObject_CallMethodNoArgs(tensor.ptr(), is_inference_.ptr()));
  }

  // A new tensor without values. std::bad_alloc where there is no such memory.
  template <class T>
  Result<T> result(const std::vector<int64_t>& shape) const {
    const size_t ndim = shape.size();
    auto held = std::make_unique<Held>();
    held->sizes = shape;
    held->sizes.resize(2 * ndim, 1);
    for (size_t i = ndim; i-- > 1;) held->sizes[ndim + i - 1] = held->sizes[ndim + i] * shape[i];
    held->bytes = sizeof(T);
    for (const int64_t size : shape)
      if (__builtin_mul_overflow(held->bytes, size, &held->bytes) || held->bytes > PTRDIFF_MAX) throw std::bad_alloc();
    T* const data = static_cast<T*>(ResultMemory::instance().take(held->bytes));
    const int64_t* const sizes = held->sizes.data();
    held->managed = {dlpack::kMajor, 0, held.get(), Held::release, 0, {}};
    held->managed.tensor = {data,  dlpack::kCpu, 0, static_cast<int32_t>(ndim), dlpack::kCode<T>, 8 * sizeof(T), 1,
                            sizes, sizes + ndim, 0};
    void* object = nullptr;
    if (exchange_->make(&held.release()->managed, &object) != 0) throw pybind11::error_already_set();
    return {pybind11::reinterpret_steal<pybind11::object>(static_cast<PyObject*>(object)), data};
  }

 private:
  // What a tensor made here holds on to.
  struct Held {
    dlpack::Managed managed;
    std::vector<int64_t> sizes;  // shape, strides
    size_t bytes;

    static void release(dlpack::Managed* self) {
      Held* const held = static_cast<Held*>(self->context);
      ResultMemory::instance().give_back(self->tensor.data, held->bytes);
      delete held;
    }
  };

  static bool truth(PyObject* answer) {
    if (!answer) throw pybind11::error_already_set();
    const bool result = answer == Py_True;
    Py_DECREF(answer);
    return result;
  }

  pybind11::object tensor_, parameter_;
  pybind11::object is_neg_ = interned("is_neg"), is_inference_ = interned("is_inference"),
                   requires_grad_ = interned("requires_grad");
  const dlpack::Exchange* exchange_ = nullptr;
};

}  // namespace hamiltorch
