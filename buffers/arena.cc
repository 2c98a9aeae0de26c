#include "buffers/arena.h"

#include "buffers/error.h"

namespace rondo {

View Layout::place(const std::string& name, DType dtype, Shape shape) {
  if (!names_.insert(name).second)
    throw Error(ErrorKind::Misuse, "layout: the name " + name + " is placed twice");
  View view{nullptr, dtype, shape};
  const uint64_t bytes = view.bytes();
  if (base_) view.data = base_ + bytes_;
  placements_.push_back({name, dtype, shape, bytes_, bytes});
  const uint64_t end = checked_add(checked_add(bytes_, bytes, name.c_str()), kAlignment - 1, name.c_str());
  bytes_ = end / kAlignment * kAlignment;
  return view;
}

Arena::Arena(Device& device, std::string name, const std::function<void(Layout&)>& lay_out)
    : name_(std::move(name)) {
  Layout counted;
  lay_out(counted);
  block_ = device.allocate(counted.bytes(), name_);
  Layout placed(block_->data());
  lay_out(placed);
  if (placed.bytes() != counted.bytes())
    throw Error(ErrorKind::Misuse, "arena " + name_ + ": counted " + std::to_string(counted.bytes()) +
                                       " bytes, placed " + std::to_string(placed.bytes()));
  placements_ = placed.placements();
}

bool Arena::contains(const void* address) const {
  const auto* p = static_cast<const std::byte*>(address);
  const auto* start = static_cast<const std::byte*>(block_->data());
  return p >= start && p < start + block_->bytes();
}

}  // namespace rondo
