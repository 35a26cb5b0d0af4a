// Memory as Python hands it over: addresses of contiguous memory that the caller keeps alive.
#pragma once
#include <cstdint>
#include <vector>

namespace hamiltorch {

using Address = uintptr_t;

template <class T>
T* pointer(Address address) {
  return reinterpret_cast<T*>(address);
}

template <class T>
std::vector<T*> pointers(const std::vector<Address>& addresses) {
  std::vector<T*> result;
  for (const Address address : addresses) result.push_back(pointer<T>(address));
  return result;
}

}  // namespace hamiltorch
