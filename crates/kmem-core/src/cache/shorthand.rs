//! Shorter ways to create a cache.

use crate::cache::{CacheArgs, CacheRef, CreateError};
use crate::config::Config;
use crate::engine::Constructor;
use crate::flags::SlabFlags;
use crate::heap::Kmem;
use crate::platform::Platform;

impl<P: Platform, C: Config> Kmem<P, C> {
    /// A cache of values of type `T` (`KMEM_CACHE`): size and alignment are the type's, and there is no constructor.
    ///
    /// # Errors
    /// As [`Kmem::create`]; a type of no bytes has no cache.
    pub fn create_for<T>(&self, name: &str, flags: SlabFlags) -> Result<CacheRef<C::Engine>, CreateError> {
        self.create_usercopy(name, size_of::<T>(), align_of::<T>(), flags, (0, 0), None)
    }

    /// [`Kmem::create_for`] with one field that may be copied to and from user space (`KMEM_CACHE_USERCOPY`): its offset
    /// and its bytes.
    ///
    /// # Errors
    /// As [`Kmem::create_for`].
    pub fn create_for_usercopy<T>(
        &self,
        name: &str,
        flags: SlabFlags,
        field: (usize, usize),
    ) -> Result<CacheRef<C::Engine>, CreateError> {
        self.create_usercopy(name, size_of::<T>(), align_of::<T>(), flags, field, None)
    }

    /// [`Kmem::create`] with all arguments in a row (`kmem_cache_create_usercopy`): `window` is the offset and the
    /// bytes of the part of an object that may be copied to and from user space; 0 bytes: none of it.
    ///
    /// # Errors
    /// As [`Kmem::create`].
    pub fn create_usercopy(
        &self,
        name: &str,
        size: usize,
        align: usize,
        flags: SlabFlags,
        window: (usize, usize),
        ctor: Option<Constructor>,
    ) -> Result<CacheRef<C::Engine>, CreateError> {
        let (useroffset, usersize) = window;
        let args =
            CacheArgs { align, flags: Some(flags), ctor, useroffset, usersize, ..CacheArgs::default() };
        self.create(name, size, args)
    }
}
